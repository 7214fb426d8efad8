"""The gradient norm at initialisation (paper table 13)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def gradient_norm(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, *, chunk: int | None = None
) -> float:
    """L2 norm of the gradient of the mean cross-entropy by all parameters, in training mode.

    Buffers (running statistics) and modes are afterwards as they were.

    Args:
        chunk: images at a time; the gradient is accumulated, so memory is that of a chunk. Batch
            norms then see chunks.

    Returns:
        the norm; infinite or NaN where it overflows.
    """
    chunk = chunk or len(y_B)
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    model.zero_grad(set_to_none=True)
    try:
        for start in range(0, len(y_B), chunk):
            output = model(x_BCHW[start : start + chunk])
            logits = output if isinstance(output, Tensor) else output[0]
            loss = functional.cross_entropy(logits, y_B[start : start + chunk], reduction="sum")
            (loss / len(y_B)).backward()  # type: ignore[no-untyped-call]
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, mode in modes.items():
            module.training = mode
    square = sum(
        float(torch.linalg.vector_norm(parameter.grad, dtype=torch.float64)) ** 2
        for parameter in model.parameters()
        if parameter.grad is not None
    )
    model.zero_grad(set_to_none=True)
    return math.sqrt(square)
