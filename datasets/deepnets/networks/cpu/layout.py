"""Gradients in the memory format of what they are gradients of."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_gradient(out_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
    """`out_BCHW`, whose gradient comes in channels-last format if `x_BCHW` has it.

    Gradients that are slices (of a concatenation) or repeat (of an average) take a CPU five times
    as long in what computed `out_BCHW` from `x_BCHW`.
    """
    if out_BCHW.requires_grad and x_BCHW.is_contiguous(memory_format=torch.channels_last):
        out_BCHW.register_hook(_channels_last)  # type: ignore[no-untyped-call]
    return out_BCHW


def _channels_last(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.contiguous(memory_format=torch.channels_last)
