"""Shapes of common operations, without running them.

PyTorch can run a network on meta tensors, but many of its meta kernels are Python programs of 50 to
200 microseconds: a ResNet-50 takes 0.15 s. The rules below give the result of the operations that
make up nearly all of a network in a few microseconds; whatever has no rule goes to PyTorch's
kernel. A rule takes the arguments of its function and returns the result as meta tensors, or
`NotImplemented` for an unusual call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ShapeRule = Callable[..., Any]

SHAPE_RULES: dict[Callable[..., Any], ShapeRule] = {}
"""From a function as `TorchFunctionMode` names it to its rule."""

_empty = torch.empty


def rule(*functions: Callable[..., Any]) -> Callable[[ShapeRule], ShapeRule]:
    """Registers the rule of `functions`."""

    def register(function: ShapeRule) -> ShapeRule:
        SHAPE_RULES.update(dict.fromkeys(functions, function))
        return function

    return register


def _new(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return _empty(shape, dtype=like.dtype, device="meta")


def pair(value: Any) -> tuple[int, int]:
    """Height and width of an argument that PyTorch takes as one number or as a sequence of one or
    two.
    """
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


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


def _pool(
    input: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Any:
    if input.dim() not in (3, 4):
        return NotImplemented
    sizes = []
    parameters = zip(
        pair(kernel_size), pair(stride or kernel_size), pair(padding), pair(dilation), strict=True
    )
    for size, (kernel, step, pad, dil) in zip(input.shape[-2:], parameters, strict=True):
        span = size + 2 * pad - dil * (kernel - 1) - 1
        out = (span + (step - 1 if ceil_mode else 0)) // step + 1
        if (
            ceil_mode and (out - 1) * step >= size + pad
        ):  # a window must start inside the input or its left padding
            out -= 1
        if out < 1:
            return NotImplemented
        sizes.append(out)
    return _new(input, (*input.shape[:-2], *sizes))


@rule(torch.max_pool2d, F.max_pool2d)
def _max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    if return_indices:
        return NotImplemented
    return _pool(input, kernel_size, stride, padding, dilation, ceil_mode)


@rule(F.avg_pool2d)
def _avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    return _pool(input, kernel_size, stride, padding, 1, ceil_mode)


@rule(F.adaptive_avg_pool2d)
def _adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Any:
    height, width = (
        output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    )
    shape = input.shape
    return _new(input, (*shape[:-2], height or shape[-2], width or shape[-1]))


@rule(torch.mean, Tensor.mean)
def _mean(input: Tensor, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
    if dim is None or options:
        return NotImplemented
    n = input.dim()
    dims = {d % n for d in ((dim,) if isinstance(dim, int) else dim)}
    shape = tuple(
        1 if i in dims else size for i, size in enumerate(input.shape) if keepdim or i not in dims
    )
    return _new(input, shape)


def _like(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    return _empty(input.shape, dtype=input.dtype, device="meta")


def _like_or_same(input: Tensor, *args: Any, inplace: bool = False, **kwargs: Any) -> Any:
    """Element-wise functions whose `inplace` is the last positional argument or a keyword."""
    if inplace or (args and args[-1] is True):
        return input
    return _empty(input.shape, dtype=input.dtype, device="meta")


def _same(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    return input


rule(
    torch.relu, torch.sigmoid, torch.tanh, torch.exp, torch.erf, torch.sqrt, torch.rsqrt,
    torch.softmax,
    Tensor.relu, Tensor.sigmoid, Tensor.tanh, Tensor.exp, Tensor.erf, Tensor.sqrt, Tensor.rsqrt,
    F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm, F.gelu, F.logsigmoid, F.softplus,
    F.tanhshrink,
    F.sigmoid, F.tanh, F.softsign,
)(_like)  # fmt: skip
rule(
    F.relu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.relu6, F.selu, F.leaky_relu, F.elu,
    F.hardtanh, F.celu,
)(_like_or_same)  # fmt: skip
rule(torch.relu_, Tensor.relu_, torch.sigmoid_, Tensor.sigmoid_, Tensor.tanh_)(_same)


@rule(F.dropout, F.dropout2d)
def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    return input if inplace else _like(input)


@rule(F.softmax, F.log_softmax, Tensor.softmax)
def _softmax(
    input: Tensor, dim: int | None = None, *args: Any, dtype: torch.dtype | None = None, **_: Any
) -> Any:
    return _empty(input.shape, dtype=dtype or input.dtype, device="meta")


@rule(F.scaled_dot_product_attention)
def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    return _new(query, (*query.shape[:-1], value.shape[-1]))


@rule(F.normalize)
def _normalize(input: Tensor, *args: Any, out: Tensor | None = None, **kwargs: Any) -> Any:
    return NotImplemented if out is not None else _like(input)


@rule(torch.add, Tensor.add, Tensor.__add__, torch.mul, Tensor.mul, Tensor.__mul__, torch.sub,
      Tensor.__sub__,
      Tensor.sub, torch.div, Tensor.div, Tensor.__truediv__)  # fmt: skip
def _binary(input: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
    if args or "out" in kwargs or not isinstance(input, Tensor):
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


@rule(Tensor.__iadd__, Tensor.add_, Tensor.__imul__, Tensor.mul_)
def _in_place(input: Tensor, other: Any, *args: Any, **kwargs: Any) -> Any:
    return (
        input
        if input.is_meta and (not isinstance(other, Tensor) or _fits(input.shape, other.shape))
        else NotImplemented
    )


@rule(torch.cat, torch.concat, torch.concatenate)
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


@rule(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm)
def _matmul(input: Tensor, other: Tensor) -> Any:
    a, b = input.shape, other.shape
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        return NotImplemented
    batch = a[:-2] if _fits(a[:-2], b[:-2]) else b[:-2] if _fits(b[:-2], a[:-2]) else None
    return NotImplemented if batch is None else _new(input, (*batch, a[-2], b[-1]))


@rule(torch.roll, Tensor.roll)
def _roll(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    return _like(input)


@rule(F.pad)
def _pad(input: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Any:
    shape = list(input.shape)
    if len(pad) % 2 or len(pad) > 2 * len(shape):
        return NotImplemented
    for i in range(len(pad) // 2):
        shape[-1 - i] += pad[2 * i] + pad[2 * i + 1]
    return _new(input, tuple(shape)) if min(shape) > 0 else NotImplemented


@rule(F.multi_head_attention_forward)
def _multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_heads: int,
    *args: Any,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    **kwargs: Any,
) -> Any:
    if not need_weights:
        return _like(query), None
    batch = query.shape[1:2] if query.dim() == 3 else ()
    heads = () if average_attn_weights else (num_heads,)
    return _like(query), _new(query, (*batch, *heads, query.shape[0], key.shape[0]))


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
