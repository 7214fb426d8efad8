"""How exactly a GPU multiplies float32 matrices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ghn.train.config import TrainConfig
from ghn.train.determinism import deterministic_algorithms


@contextmanager
def tensor_float(enabled: bool, device: torch.device) -> Iterator[None]:
    """TF32 for products and convolutions of float32 inside, on a GPU, if `enabled`; the settings of
    before afterwards.

    It has float32's range and ten bits of its mantissa: what decoders need, which overflow in half
    precision and stay in float32 under autocast.
    """
    if device.type != "cuda" or not enabled:
        yield
        return
    before = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions


@contextmanager
def arithmetic(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """What a recipe says of the arithmetic of its device."""
    with deterministic_algorithms(config.deterministic), tensor_float(config.tf32, device):
        yield
