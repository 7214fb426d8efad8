"""Several linear layers that are slices of one.

The decoders need few of the rows of their weights for most parameters. Taking a slice with
autograd's indexing costs a gradient of the size of the whole weight per slice; here all slices
share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Slices = tuple[slice, ...]


def sliced_linear(
    weight: Tensor,
    bias: Tensor,
    grid: Sequence[int],
    slices: Sequence[Slices],
    inputs: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Applies to each of `inputs` the rows of a linear layer that the slice beside it selects.

    Args:
        weight: (rows, features).
        bias: (rows,).
        grid: sizes whose product is `rows`: how the rows are arranged.
        slices: for each input a slice along each dimension of the grid.
        inputs: each (P, features).

    Returns:
        For each input (P, selected rows), the rows in the order of the grid.
    """
    device = weight.device.type
    if torch.is_autocast_enabled(device):  # which does not reach into functions of our own
        half = torch.get_autocast_dtype(device)
        weight, bias, inputs = weight.to(half), bias.to(half), [x.to(half) for x in inputs]
    if torch.is_grad_enabled() and (weight.requires_grad or any(x.requires_grad for x in inputs)):
        return _SlicedLinear.apply(weight, bias, grid, slices, *inputs)  # type: ignore[no-any-return]
    return tuple(
        F.linear(x, *rows(weight, bias, grid, selected))
        for x, selected in zip(inputs, slices, strict=True)
    )


def rows(
    weight: Tensor, bias: Tensor, grid: Sequence[int], selected: Slices
) -> tuple[Tensor, Tensor]:
    """The selected rows of weight and bias; a view wherever they are evenly spaced."""
    w = weight.view(*grid, weight.shape[1])[selected]
    return w.reshape(-1, weight.shape[1]), bias.view(*grid)[selected].reshape(-1)


class _SlicedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor,
        grid: Sequence[int],
        slices: Sequence[Slices],
        *inputs: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(weight, *inputs)
        ctx.grid, ctx.slices = tuple(grid), slices
        return tuple(
            F.linear(x, *rows(weight, bias, grid, selected))
            for x, selected in zip(inputs, slices, strict=True)
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        weight, *inputs = ctx.saved_tensors
        features = weight.shape[1]
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[0] else None
        d_bias = weight.new_zeros(len(weight)) if ctx.needs_input_grad[1] else None
        d_inputs: list[Tensor | None] = []
        for i, (x, selected, grad) in enumerate(zip(inputs, ctx.slices, grads, strict=True)):
            w = weight.view(*ctx.grid, features)[selected]
            d_inputs.append(grad @ w.reshape(-1, features) if ctx.needs_input_grad[4 + i] else None)
            if d_weight is not None:
                target = d_weight.view(*ctx.grid, features)[selected]
                if target.is_contiguous():
                    target.view(-1, features).addmm_(grad.mT, x)
                else:
                    target.add_((grad.mT @ x).view(target.shape))
            if d_bias is not None:
                target = d_bias.view(ctx.grid)[selected]
                target.add_(grad.sum(0).view(target.shape))
        return d_weight, d_bias, None, None, *d_inputs


def leading(*sizes: int) -> Slices:
    """The slices that take the first entries of each dimension."""
    return tuple(slice(size) for size in sizes)
