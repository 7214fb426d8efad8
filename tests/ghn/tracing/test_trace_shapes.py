"""The shape rules agree with PyTorch's own kernels, and leave unusual calls to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from ghn.errors import TraceError
from ghn.tracing import trace
from ghn.tracing.shape_rules import SHAPE_RULES, pair

small = st.integers(1, 4)
pairs = st.one_of(small, st.tuples(small, small))


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def check(function: Any, *args: Any, **kwargs: Any) -> bool:
    """Whether the rule decides; if it does, PyTorch must agree, and if it does not, PyTorch may do
    what it likes.
    """
    ours = SHAPE_RULES[function](*args, **kwargs)
    if ours is NotImplemented:
        return False
    theirs = function(*args, **kwargs)
    for a, b in zip(_flat(ours), _flat(theirs), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert a.is_meta
    return True


def _flat(value: Any) -> list[Tensor]:
    return (
        [value]
        if isinstance(value, Tensor)
        else [t for item in value if item is not None for t in _flat(item)]
    )


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(small, small),
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    small,
    pairs,
    pairs,
    pairs,
    pairs,
)
def test_convolution(
    batch_and_groups: tuple[int, int],
    size: tuple[int, int],
    out: int,
    kernel: Any,
    stride: Any,
    padding: Any,
    dil: Any,
) -> None:
    batch, groups = batch_and_groups
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    weight = meta(out * groups, 2, *kernel)
    check(torch.conv2d, meta(batch, 2 * groups, *size), weight, None, stride, padding, dil, groups)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(small, min_size=1, max_size=4),
    st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=4),
)
def test_broadcasting(a: list[int], b: list[int]) -> None:
    try:
        torch.broadcast_shapes(a, b)
    except RuntimeError:
        return
    for function in (torch.add, torch.mul, Tensor.add, Tensor.mul):
        check(function, meta(*a), meta(*b))
        check(function, meta(*a), meta(*b, dtype=torch.int64))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(small, min_size=2, max_size=4),
    st.integers(-2, 1),
    st.lists(small, min_size=1, max_size=3),
)
def test_concatenation(shape: list[int], dim: int, sizes: list[int]) -> None:
    tensors = [
        meta(*(size if i == dim % len(shape) else n for i, n in enumerate(shape))) for size in sizes
    ]
    assert check(torch.cat, tensors, dim)


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (torch._C._nn.linear, (meta(2, 5, 3), meta(7, 3)), {}),
        (F.adaptive_avg_pool2d, (meta(2, 3, 9, 7), (None, 2)), {}),
        (F.adaptive_avg_pool2d, (meta(2, 3, 9, 7), 1), {}),
        (F.batch_norm, (meta(2, 3, 4, 4), meta(3), meta(3)), {}),
        (F.batch_norm, (meta(2, 3), None, None, meta(3), meta(3)), {"training": True}),
        (F.layer_norm, (meta(2, 4, 3), (3,), meta(3)), {}),
        (F.layer_norm, (meta(2, 4, 3), [4, 3]), {}),
        (F.relu, (meta(2, 3),), {"inplace": True}),
        (F.hardtanh, (meta(2, 3), 0.0, 6.0, True), {}),
        (torch.lstm, (meta(2, 6, 4), (meta(1, 2, 5), meta(1, 2, 5)),
                      [meta(20, 4), meta(20, 5), meta(20), meta(20)], True, 1, 0.0, False, False,
                      True), {}),
        (torch.gru, (meta(6, 2, 4), meta(2, 2, 5), [*[meta(15, 4), meta(15, 5)] * 2], False, 1, 0.0,
                     False, True,
                     False), {}),
    ],
)  # fmt: skip
def test_common_calls_are_decided(function: Any, args: Any, kwargs: Any) -> None:
    assert check(function, *args, **kwargs)


@pytest.mark.parametrize("more", [False, True])
def test_attention_module(more: bool) -> None:
    """`more` keys and values than the sequence has: a learned one, and a zero."""
    module = torch.nn.MultiheadAttention(8, 2, add_bias_kv=more, add_zero_attn=more, device="meta")
    x = meta(5, 3, 8)
    arguments = (8, 2, module.in_proj_weight, module.in_proj_bias, module.bias_k, module.bias_v,
                 more, 0.0, module.out_proj.weight, module.out_proj.bias)  # fmt: skip
    for options in ({}, {"need_weights": False}, {"average_attn_weights": False}):
        assert check(
            F.multi_head_attention_forward, x, meta(6, 3, 8), meta(6, 3, 8), *arguments, **options
        )
        assert check(
            F.multi_head_attention_forward,
            meta(5, 8),
            meta(6, 8),
            meta(6, 8),
            *arguments,
            **options,
        )


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (torch.conv2d, (meta(2, 3, 8, 8), meta(4, 3, 3, 3), None, 1, "same")),
        (torch.conv2d, (meta(2, 3, 8, 8), meta(4, 2, 3, 3))),
        (torch._C._nn.linear, (meta(2, 5), meta(3, 4))),
        (F.batch_norm, (meta(2, 3, 4, 4), meta(4), meta(4))),
        (F.batch_norm, (meta(2, 3, 4, 4), meta(3), meta(3), meta(4))),
        (F.layer_norm, (meta(2, 4, 3), (5, 3))),
        (F.layer_norm, (meta(3), (4, 3))),
        (torch.add, (meta(2, 3), meta(3, 1))),
        (torch.add, (meta(2, 3, dtype=torch.int64), 1.5)),
        (torch.mul, (meta(2, 3), 1j)),
        (torch.cat, ([meta(2, 3), meta(2, 3, dtype=torch.float64)],)),
    ],
)
def test_unusual_calls_are_left_to_pytorch(function: Any, args: Any) -> None:
    assert SHAPE_RULES[function](*args) is NotImplemented


@pytest.mark.parametrize("norm", [torch.nn.BatchNorm2d(16), torch.nn.LayerNorm([8, 32, 32])])
def test_norms_of_other_sizes_fail_as_they_do_when_the_network_runs(norm: torch.nn.Module) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), norm)
    with pytest.raises(RuntimeError):
        network(torch.zeros(2, 3, 24, 24))
    with pytest.raises(TraceError, match="fails on inputs of shape"):
        trace(network, torch.zeros(2, 3, 24, 24))


@pytest.mark.parametrize("number", [2, np.int64(2), (2,), (np.int64(2), 2), torch.Size([2])])
def test_sizes_may_be_numbers_of_numpy(number: Any) -> None:
    assert [type(n) for n in pair(number)] == [int, int]
    assert pair(number) == (2, 2)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, dilation=number), torch.nn.MaxPool2d(number)
    )
    assert trace(network).shape.tolist()[-1] == [1, 1, 2, 2]
