"""Layers that the released hypernetworks do not know: each a rule of its own, off unless asked for.

`ghn.trace(model, extensions=[...])` or `extensions="all"` switches them on. An extension gives the
layer the nearest primitive that there is, so that any hypernetwork reads the graph; what it
predicts there is as good as its training. Without extensions graphs are as they always were.

| extension | layers | primitive |
|---|---|---|
| `addmm` | `addmm` with a parameter (`Conv1D` of transformers) | conv, bias |
| `matmul` | `x @ W` and `W @ x` with a parameter W of two dimensions | conv |
| `einsum` | `einsum` of a parameter and another tensor | conv |
| `rms_norm` | `F.rms_norm`, and its hand-written form | ln |
| `group_norm` | `F.group_norm` | ln |
| `conv1d`, `conv3d` | convolutions of one and of three dimensions | conv, sep_conv, dil_conv |
| `conv_transpose` | transposed convolutions of one to three dimensions | conv, sep_conv, dil_conv |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ghn.errors import ConfigError
from ghn.tracing.dataflow import DataFlow, NodeRule
from ghn.tracing.nest import tensors_of
from ghn.tracing.node_rules import NODE_RULES, convolution
from ghn.tracing.rules import Rules

Extensions = Iterable[str] | Literal["all"]

EXTENSIONS: dict[str, Rules[NodeRule]] = {}
"""From the name of an extension to its rules."""


def rules(extensions: Extensions) -> Mapping[Callable[..., Any], NodeRule]:
    """The rules of tracing with these extensions.

    Raises:
        ConfigError: there is no such extension.
    """
    names = list(EXTENSIONS) if extensions == "all" else list(extensions)
    if unknown := [name for name in names if name not in EXTENSIONS]:
        raise ConfigError(
            f"no extension {unknown[0]!r} of tracing; use 'all' or some of {', '.join(EXTENSIONS)}"
        )
    found = dict(NODE_RULES)
    for name in names:
        found |= EXTENSIONS[name]
    return found


def _rule(extension: str, *functions: Callable[..., Any]) -> Callable[[NodeRule], NodeRule]:
    return EXTENSIONS.setdefault(extension, Rules()).rule(*functions)


# Matrix products


@_rule("addmm", torch.addmm, Tensor.addmm)
def _addmm(
    rec: DataFlow, out: Tensor, input: Tensor, mat1: Tensor, mat2: Tensor, *_: Any, **__: Any
) -> None:
    if rec.source(mat1) is None or not _is_weight(rec, mat2):
        rec.pass_on(out, [input, mat1, mat2], product=True)
    else:
        bias = input if rec.source(input) is None else None
        rec.tag(out, rec.layer("conv", [rec.source(mat1), rec.source(input)], mat2, bias))


@_rule("matmul", torch.mm, Tensor.mm)
def _mm(rec: DataFlow, out: Tensor, input: Tensor, mat2: Tensor, *_: Any, **__: Any) -> None:
    _matmul(rec, out, input, mat2)


@_rule("matmul", torch.matmul, Tensor.matmul, Tensor.__matmul__)
def _matmul(rec: DataFlow, out: Tensor, input: Tensor, other: Tensor, *_: Any, **__: Any) -> None:
    for data, weight in ((input, other), (other, input)):
        if rec.source(data) is not None and _is_weight(rec, weight):
            rec.tag(out, rec.layer("conv", [rec.source(data)], weight))
            return
    rec.pass_on(out, [input, other], product=True)


@_rule("einsum", torch.einsum)
def _einsum(rec: DataFlow, out: Tensor, equation: str, *operands: Any, **named: Any) -> None:
    """One parameter times data, or times a constant as tables of relative positions are."""
    tensors = tensors_of([operands, named])
    weights = [t for t in tensors if rec.source(t) is None and t.dim() > 1 and rec.param(t)]
    if len(tensors) == 2 and len(weights) == 1:
        data = [rec.source(tensor) for tensor in tensors if tensor is not weights[0]]
        rec.tag(out, rec.layer("conv", data, weights[0]))
    else:
        rec.pass_on(out, tensors, product=True)


def _is_weight(rec: DataFlow, tensor: Tensor) -> bool:
    """Whether a matrix is a parameter, as it is or computed."""
    return rec.source(tensor) is None and tensor.dim() == 2 and bool(rec.param(tensor))


# Norms


@_rule("group_norm", F.group_norm, torch.group_norm)
def _group_norm(
    rec: DataFlow,
    out: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *_: Any,
    **__: Any,
) -> None:
    rec.param(bias)  # has no node, but is used
    rec.tag(out, rec.layer("ln", [rec.source(input)], weight))


@_rule("rms_norm", F.rms_norm, torch.rms_norm)
def _rms_norm(
    rec: DataFlow,
    out: Tensor,
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    *_: Any,
    **__: Any,
) -> None:
    known = weight if len(normalized_shape) == 1 else None
    rec.tag(out, rec.layer("ln", [rec.source(input)], known))


@_rule("rms_norm", torch.rsqrt, Tensor.rsqrt)
def _rsqrt(rec: DataFlow, out: Tensor, input: Tensor, *_: Any, **__: Any) -> None:
    rec.pass_on(out, [input])
    rec.marks[id(out)] = "rsqrt"


@_rule("rms_norm", Tensor.to, Tensor.float, Tensor.half, Tensor.bfloat16, Tensor.type_as)
def _cast(rec: DataFlow, out: Tensor, input: Tensor, *_: Any, **__: Any) -> None:
    rec.pass_on(out, [input])
    if mark := rec.marks.get(id(input)):
        rec.marks[id(out)] = mark


@_rule("rms_norm", torch.mul, Tensor.mul, Tensor.__mul__, Tensor.mul_, Tensor.__imul__)
def _mul(rec: DataFlow, out: Tensor, input: Any, other: Any, *_: Any, **__: Any) -> None:
    """Data times the root of its mean square is normalised; times a vector, it is a norm layer."""
    for data, factor in ((input, other), (other, input)):
        if rec.source(data) is None or not isinstance(factor, Tensor):
            continue
        if rec.marks.get(id(factor)) == "rsqrt":
            rec.pass_on(out, [input, other])
            rec.marks[id(out)] = "normalised"
            return
        vector = rec.source(factor) is None and factor.shape == data.shape[-1:]
        if vector and rec.marks.get(id(data)) == "normalised" and rec.param(factor):
            rec.tag(out, rec.layer("ln", [rec.source(data)], factor))
            return
    NODE_RULES[torch.mul](rec, out, input, other)


# Convolutions


@_rule("conv1d", torch.conv1d)
@_rule("conv3d", torch.conv3d)
def _conv(
    rec: DataFlow,
    out: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> None:
    convolution(rec, out, input, weight, bias, dilation, groups)


@_rule("conv_transpose", torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
def _conv_transpose(
    rec: DataFlow,
    out: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> None:
    convolution(rec, out, input, weight, bias, dilation, groups)
