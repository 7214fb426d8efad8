"""Differentiable table look-ups that autograd's own operations make slow.

Shape legend: H rows of the table, C codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ALIGNED = 16
"""Numbers; of what PyTorch's memory-efficient attention takes as additive logits without a copy."""


def look_up(table_HC: Tensor, code: Tensor) -> Tensor:
    """Row-wise look-up: entry (b, h, ...) of the result is `table_HC[h, code[b, ...]]`.

    Args:
        table_HC: (H, C) values.
        code: (B, ...) uint8 codes below C.

    Returns:
        (B, H, ...), so that attention can use it as it is.
    """
    if code.device.type != "cpu":
        return gathered(table_HC, code)
    return _LookUp.apply(table_HC, code)  # type: ignore[no-any-return]


def gathered(table_HC: Tensor, code: Tensor) -> Tensor:
    """`look_up` on a GPU: rows begin at multiples of `ALIGNED` numbers. Attention would otherwise
    pad a copy in each layer, and keep it for the backward pass.

    It is one gather, whose gradient sorts the codes: adding up values where they belong would be
    millions of atomic additions onto a hundred addresses.
    """
    n = code.shape[-1]
    values = F.embedding(F.pad(code, (0, -n % ALIGNED)).int(), table_HC.T)
    return values.movedim(-1, 1).contiguous()[..., :n]


class _LookUp(torch.autograd.Function):
    """The gradient of a table entry is a sum over a million pairs of nodes: scattered once per row,
    in one pass.
    """

    @staticmethod
    def forward(ctx: Any, table_HC: Tensor, code: Tensor) -> Tensor:
        ctx.save_for_backward(code)
        ctx.table_shape = table_HC.shape
        index = code.flatten(1).int()
        out = table_HC.new_empty(len(code), len(table_HC), index.shape[1])
        rows = table_HC.unbind()
        # A look-up per row reads a kilobyte of table; selecting columns is ten times slower.
        for codes, found in zip(index.unbind(), out.unbind(), strict=True):
            for row, place in zip(rows, found.unbind(), strict=True):
                torch.index_select(row, 0, codes, out=place)
        return out.view(len(code), len(table_HC), *code.shape[1:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (code,) = ctx.saved_tensors
        h, c = ctx.table_shape
        index = code.flatten().long()
        rows = grad.transpose(0, 1).reshape(h, -1)
        table = torch.zeros(h, c, dtype=torch.float32, device=grad.device)
        table.scatter_add_(1, index.expand(h, -1), rows.float())
        return table.to(grad.dtype), None
