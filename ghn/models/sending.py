"""Small tensors that are made on the CPU and needed on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; the caller does not wait for a GPU.

    A copy from memory that is not page-locked waits for all that the GPU has been given to do. The
    allocator of page-locked memory keeps what it is given back, until its copies are done.
    """
    if device.type != "cuda":
        return tensor.to(device)
    pinned = tensor.pin_memory() if torch.cuda.is_available() else tensor
    return pinned.to(device, non_blocking=True)


def send_list(values: Sequence[float], device: torch.device) -> Tensor:
    """The numbers as a tensor on `device`, without waiting for it."""
    return send(torch.tensor(values, device="cpu"), device)
