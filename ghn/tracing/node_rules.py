"""What each kind of operation leaves in the record of a forward pass: which calls of PyTorch make
nodes, and which.

A rule is called with the record, the result of the call and its arguments, under the names that
PyTorch gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ghn.tracing.dataflow import DataFlow, NodeRule, Operation
from ghn.tracing.nest import tensors_of
from ghn.tracing.rules import Rules
from ghn.tracing.shape_rules import pair

NODE_RULES: Rules[NodeRule] = Rules()
rule = NODE_RULES.rule

# Layers with parameters


@rule(torch.conv2d)
def _conv2d(
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


def convolution(
    rec: DataFlow,
    out: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dilation: int | Sequence[int],
    groups: int,
) -> None:
    """The node of a convolution of any dimension."""
    dilations = dilation if isinstance(dilation, Sequence) else (dilation,)
    kind = "conv" if groups == 1 else "dil_conv" if min(dilations) > 1 else "sep_conv"
    rec.tag(out, rec.layer(kind, [rec.source(input)], weight, bias))


@rule(torch._C._nn.linear)
def _linear(
    rec: DataFlow, out: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> None:
    rec.tag(out, rec.layer("conv", [rec.source(input)], weight, bias))


@rule(F.batch_norm)
def _batch_norm(
    rec: DataFlow,
    out: Tensor,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *_: Any,
    **__: Any,
) -> None:
    rec.param(bias)  # has no node, but is used
    if rec.source(input) is None:  # weight standardisation normalises a parameter this way
        rec.pass_on(out, [input])
    else:
        rec.tag(out, rec.layer("bn", [rec.source(input)], weight))


@rule(torch.batch_norm)
def _torch_batch_norm(
    rec: DataFlow, out: Tensor, input: Tensor, weight: Any, bias: Any, *_: Any, **__: Any
) -> None:
    """As `F.batch_norm`, which has another order of arguments."""
    _batch_norm(rec, out, input, None, None, weight, bias)


@rule(F.layer_norm, torch.layer_norm)
def _layer_norm(
    rec: DataFlow,
    out: Tensor,
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *_: Any,
    **__: Any,
) -> None:
    rec.param(bias)  # has no node, but is used
    # The decoder of normalisation layers makes vectors: a norm over several dimensions is a layer
    # it does not know.
    known = weight if len(normalized_shape) == 1 else None
    rec.tag(out, rec.layer("ln", [rec.source(input)], known))


@rule(F.embedding)
def _embedding(
    rec: DataFlow, out: Tensor, input: Tensor, weight: Tensor, *_: Any, **__: Any
) -> None:
    rec.tag(out, rec.layer("pos_enc", [rec.source(input)], weight))


# Operations without parameters


def _add(rec: DataFlow, out: Tensor, input: Any, other: Any, *_: Any, **__: Any) -> None:
    sources = [rec.source(input), rec.source(other)]
    if None not in sources:
        rec.tag(out, sources[0] if sources[0] == sources[1] else rec.add("sum", sources))
        return
    data, constant = (input, other) if sources[1] is None else (other, input)
    if rec.source(data) is not None and isinstance(constant, Tensor):
        name = rec.param(constant)
        if name and _is_positional(rec.param_shape(name), constant, data):
            position = rec.add("pos_enc", [], name, _pos_enc_shape(rec.param_shape(name)))
            rec.tag(out, rec.add("sum", [rec.source(data), position]))
            return
    rec.pass_on(out, [input, other])


rule(torch.add, Tensor.add, Tensor.__add__, Tensor.add_, Tensor.__iadd__)(_add)


def _is_positional(shape: tuple[int, ...], added: Tensor, data: Tensor) -> bool:
    """Whether a parameter of `shape`, added to `data` as `added`, has one vector per position, for
    the whole batch.
    """
    if len(shape) == 2:  # (T, C), or its first rows, added to (B, T, C)
        rows, columns = added.shape[-2:] if added.dim() > 1 else (0, 0)
        return data.dim() == 3 and 1 < rows <= shape[0] and 1 < columns == shape[1]
    return len(shape) in (3, 4) and shape[0] == 1 and sum(size > 1 for size in shape) >= 2


def _pos_enc_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(1, T, C) as (1, C, s, s), the form in which DeepNets-1M has them; s is the side of a square
    of T positions.
    """
    if len(shape) == 3 and shape[0] == 1:
        side = int(shape[1] ** 0.5)
        return (1, shape[2], side, side)
    return shape


@rule(torch.mul, Tensor.mul, Tensor.__mul__, Tensor.mul_, Tensor.__imul__)
def _mul(rec: DataFlow, out: Tensor, input: Any, other: Any, *_: Any, **__: Any) -> None:
    a, b = rec.source(input), rec.source(other)
    if a is None or b is None or a == b:
        rec.pass_on(out, [input, other])
        return
    gate, data = (a, b) if input.numel() < other.numel() else (b, a)
    unequal = input.numel() != other.numel()
    if unequal and (squeeze := _squeeze(rec.operations, gate, data)) is not None:
        rec.operations[squeeze].kind = "squeeze"
        rec.tag(out, rec.add("cse", [data, gate]))
    else:
        rec.tag(out, rec.add("junction", [a, b]))


def _squeeze(operations: list[Operation], gate: int, data: int) -> int | None:
    """The global pooling of `data` that `gate` is computed from, if it is the gate of a
    squeeze-and-excitation.
    """
    while gate > data:
        operation = operations[gate]
        if operation.kind in ("glob_avg", "squeeze") and operation.inputs == [data]:
            return gate
        if len(operation.inputs) != 1:
            return None
        gate = operation.inputs[0]
    return None


@rule(torch.cat, torch.concat, torch.concatenate, torch.hstack, torch.vstack, torch.dstack)
def _cat(rec: DataFlow, out: Tensor, tensors: Any, *_: Any, **__: Any) -> None:
    sources = list(dict.fromkeys(s for t in tensors if (s := rec.source(t)) is not None))
    if len(sources) > 1:
        rec.tag(out, rec.add("concat", sources))
    else:
        rec.pass_on(out, tensors_of(tensors))


def _pool(kind: str) -> NodeRule:
    def note(
        rec: DataFlow, out: Tensor, input: Tensor, kernel_size: Any, *_: Any, **__: Any
    ) -> None:
        rec.tag(out, rec.add(kind, [rec.source(input)], shape=(1, 1, *pair(kernel_size))))

    return note


rule(torch.max_pool2d, F.max_pool2d, F.max_pool2d_with_indices)(_pool("max_pool"))
rule(F.avg_pool2d)(_pool("avg_pool"))


@rule(F.adaptive_avg_pool2d)
def _adaptive_avg_pool(rec: DataFlow, out: Tensor, input: Tensor, output_size: Any) -> None:
    _pool_globally(rec, out, input)


def _pool_globally(rec: DataFlow, out: Tensor, input: Tensor) -> None:
    if input.dim() == 4:
        rec.map_side = min(input.shape[-2:])
    rec.tag(out, rec.add("glob_avg", [rec.source(input)]))


@rule(torch.mean, Tensor.mean)
def _mean(
    rec: DataFlow,
    out: Tensor,
    input: Tensor,
    dim: Any = None,
    keepdim: bool = False,
    *_: Any,
    **__: Any,
) -> None:
    n = input.dim()
    given = dim if isinstance(dim, Sequence) else () if dim is None else (dim,)
    dims = sorted({d % n for d in given or range(n)})
    positions = {3: [[1]] if keepdim else [[1], [2]], 4: [[2, 3], [1, 2]]}.get(n, [])
    if rec.source(input) is not None and dims in positions:
        _pool_globally(rec, out, input)
    else:  # the statistics of a hand-written norm, a loss, ...
        rec.pass_on(out, [input])


@rule(torch.softmax, F.softmax, Tensor.softmax)
def _softmax(rec: DataFlow, out: Tensor, input: Tensor, *_: Any, **__: Any) -> None:
    if (source := rec.source(input)) is not None:
        # becomes an msa when it is multiplied with values
        rec.tag(out, rec.add("softmax", [source]))


@rule(F.scaled_dot_product_attention)
def _attention(
    rec: DataFlow, out: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> None:
    rec.tag(out, rec.add("msa", [rec.source(tensor) for tensor in (query, key, value)]))


@rule(F.multi_head_attention_forward)
def _multi_head_attention(
    rec: DataFlow,
    result: tuple[Tensor, Tensor | None],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    **_: Any,
) -> None:
    """Projections, attention, projection back. A packed projection is one node, as its weight is
    one parameter.
    """
    sources = [rec.source(tensor) for tensor in (query, key, value)]
    if use_separate_proj_weight:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
        sources = [
            rec.layer("conv", [source], weight)
            for source, weight in zip(sources, weights, strict=True)
        ]
        projected = rec.layer("conv", sources, None, in_proj_bias)
    else:
        projected = rec.layer("conv", sources, in_proj_weight, in_proj_bias)
    # PyTorch takes the fused kernel unless the attention weights are asked for; `quirks` needs to
    # know.
    attended = rec.add("msa" if need_weights else "fused_msa", [projected])
    rec.tag(result[0], rec.layer("conv", [attended], out_proj_weight, out_proj_bias))
    if result[1] is not None:
        rec.tag(result[1], projected)
