"""Shapes of common operations, without running them.

PyTorch can run a network on meta tensors, but some of its meta kernels are Python programs of 50 to
1,000 microseconds. The rules below give the result of the calls that cost most over the 74
torchvision networks in a few microseconds: without rules tracing them takes 11.2 s, with these 16
1.3 s, with rules for 89 functions 0.9 s. Whatever has no rule goes to PyTorch's kernel. A rule
takes the arguments of its function and returns the result as meta tensors, or `NotImplemented` for
an unusual call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ghn.tracing.rules import Rules

ShapeRule = Callable[..., Any]

SHAPE_RULES: Rules[ShapeRule] = Rules()
rule = SHAPE_RULES.rule

_empty = torch.empty


def _new(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return _empty(shape, dtype=like.dtype, device="meta")


def pair(value: Any) -> tuple[int, int]:
    """Height and width of an argument that PyTorch takes as one number or as a sequence of one or
    two.
    """
    numbers = value if isinstance(value, Sequence) else (value,)  # perhaps NumPy's
    return index(numbers[0]), index(numbers[-1])


@rule(torch.conv2d)
def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    shape, (out_channels, in_channels, kernel_h, kernel_w) = input.shape, weight.shape
    if isinstance(padding, str) or len(shape) != 4 or shape[1] != in_channels * groups:
        return NotImplemented  # PyTorch computes it, or says what is wrong
    (stride_h, stride_w), (pad_h, pad_w), (dil_h, dil_w) = (
        pair(stride),
        pair(padding),
        pair(dilation),
    )
    height = (shape[2] + 2 * pad_h - dil_h * (kernel_h - 1) - 1) // stride_h + 1
    width = (shape[3] + 2 * pad_w - dil_w * (kernel_w - 1) - 1) // stride_w + 1
    if height < 1 or width < 1:
        return NotImplemented
    return _new(input, (shape[0], out_channels, height, width))


@rule(torch._C._nn.linear)
def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if weight.dim() != 2 or input.shape[-1] != weight.shape[1]:
        return NotImplemented
    return _new(input, (*input.shape[:-1], weight.shape[0]))


@rule(F.adaptive_avg_pool2d)
def _adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Any:
    height, width = (
        output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    )
    shape = input.shape
    return _new(input, (*shape[:-2], height or shape[-2], width or shape[-1]))


def _like(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    return _new(input, input.shape)


rule(F.gelu)(_like)


@rule(F.batch_norm)
def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    channels = input.shape[1:2]
    for vector in (running_mean, running_var, weight, bias):
        if vector is not None and vector.shape != channels:
            return NotImplemented  # PyTorch says what is wrong
    return _like(input)


@rule(F.layer_norm)
def _layer_norm(input: Tensor, normalized_shape: Any, *args: Any, **kwargs: Any) -> Any:
    sizes = tuple(normalized_shape)
    return _like(input) if input.shape[-len(sizes) :] == sizes else NotImplemented


@rule(F.relu, F.silu, F.hardswish, F.hardtanh)
def _activation(input: Tensor, *args: Any, inplace: bool = False, **kwargs: Any) -> Any:
    """`inplace` is the last positional argument or a keyword."""
    return input if inplace or (args and args[-1] is True) else _like(input)


@rule(torch.add, Tensor.add, torch.mul, Tensor.mul)
def _binary(input: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
    if args or "out" in kwargs or not isinstance(input, Tensor) or isinstance(other, complex):
        return NotImplemented
    if isinstance(other, Tensor):
        if input.dtype != other.dtype:
            return NotImplemented
        if input.shape != other.shape:
            if not _fits(input.shape, other.shape):
                return _binary(other, input) if _fits(other.shape, input.shape) else NotImplemented
            return _like(input) if input.is_floating_point() else NotImplemented
    return _like(input) if input.is_floating_point() else NotImplemented


def _fits(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether broadcasting `other` to `shape` leaves `shape` as it is."""
    if len(other) > len(shape):
        return False
    return all(b in (1, a) for a, b in zip(reversed(shape), reversed(other), strict=False))


@rule(torch.cat)
def _cat(tensors: Any, dim: int = 0, **kwargs: Any) -> Any:
    first = tensors[0]
    if kwargs or any(t.dim() != first.dim() or t.dtype != first.dtype for t in tensors):
        return NotImplemented
    shape = list(first.shape)
    if any(
        t.shape[i] != size for t in tensors for i, size in enumerate(shape) if i != dim % len(shape)
    ):
        return NotImplemented
    shape[dim] = sum(t.shape[dim] for t in tensors)
    return _new(first, tuple(shape))


@rule(F.multi_head_attention_forward)
def _multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    *args: Any,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    **kwargs: Any,
) -> Any:
    if not need_weights:
        return _like(query), None
    batch = query.shape[1:2] if query.dim() == 3 else ()
    heads = () if average_attn_weights else (num_heads,)
    keys = key.shape[0] + (bias_k is not None) + bool(add_zero_attn)
    return _like(query), _new(query, (*batch, *heads, query.shape[0], keys))


@rule(torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
def _recurrent(
    input: Tensor,
    hidden: Any,
    params: Any,
    has_biases: Any = None,
    num_layers: Any = None,
    dropout: Any = None,
    train: Any = None,
    bidirectional: Any = None,
    batch_first: Any = None,
) -> Any:
    """PyTorch's meta kernel unrolls the time steps: seconds. Packed sequences have another
    signature.
    """
    if not isinstance(params, (list, tuple)) or batch_first is None:
        return NotImplemented
    states = hidden if isinstance(hidden, (list, tuple)) else (hidden,)
    features = states[0].shape[-1] * (2 if bidirectional else 1)
    return (_new(input, (*input.shape[:-1], features)), *(_like(state) for state in states))
