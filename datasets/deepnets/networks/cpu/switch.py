"""Whether the layers of this package stand in for PyTorch's."""

from __future__ import annotations

import torch
from torch import Tensor


def fast(x: Tensor) -> bool:
    """Whether a layer takes its fast form on `x`: in single precision, on a CPU.

    Each layer adds for which shapes, or only while gradients are recorded, its form pays.
    """
    on_cpu = x.device.type == "cpu" and x.dtype is torch.float32
    return on_cpu and not torch.is_autocast_enabled("cpu")
