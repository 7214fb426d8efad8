"""The gradient norm at initialisation (paper table 13)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ghn.errors import ConfigError
from ghn.failures import require_trainable
from ghn.modes import modes_kept
from ghn.outputs import heads


def gradient_norm(
    model: nn.Module, x_BCHW: Tensor, y_B: Tensor, *, chunk: int | None = None
) -> float:
    """L2 norm of the gradient of the mean cross-entropy by all parameters, in training mode.

    Buffers (running statistics), gradients and modes are afterwards as they were.

    Args:
        chunk: images at a time; the gradient is accumulated, so memory is that of a chunk. Batch
            norms then see chunks.

    Returns:
        the norm; infinite or NaN where it overflows.

    Raises:
        ConfigError: all parameters are frozen or one has no values, there are no images, or `chunk`
            is below 1.
    """
    require_trainable(model)
    chunk = len(y_B) if chunk is None else chunk
    if chunk < 1:
        raise ConfigError(f"{len(y_B)} images, {chunk} at a time: at least one is needed")
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    model.zero_grad(set_to_none=True)
    try:
        with modes_kept(model):
            model.train()
            for start in range(0, len(y_B), chunk):
                logits = heads(model(x_BCHW[start : start + chunk]))[0]
                labels = y_B[start : start + chunk]
                loss = functional.cross_entropy(logits, labels, reduction="sum")
                (loss / len(y_B)).backward()  # type: ignore[no-untyped-call]
        return math.sqrt(
            sum(
                float(torch.linalg.vector_norm(parameter.grad, dtype=torch.float64)) ** 2
                for parameter in model.parameters()
                if parameter.grad is not None
            )
        )
    finally:
        with torch.no_grad():
            for buffer, values in buffers:
                buffer.copy_(values)
        for parameter, gradient in gradients:
            parameter.grad = gradient
