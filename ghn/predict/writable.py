"""Which parameters can be written in place."""

from __future__ import annotations

import torch
from torch import Tensor


def unwritable(parameter: Tensor, kept: bool) -> str:
    """Why a parameter cannot be written; empty if it can, or if it is `kept` as it is."""
    if parameter.is_meta:
        return "on the meta device; call model.to_empty(device=...), or use predict()"
    if hasattr(parameter, "full_tensor"):
        return "sharded; predict before the network is sharded"
    if kept:
        return ""
    if _overlaps(parameter):
        return "expanded: entries share their memory; assign a clone() of it first"
    if parameter.is_inference() and not torch.is_inference_mode_enabled():
        return "a tensor of inference mode; build the network outside of it"
    return ""


def _overlaps(tensor: Tensor) -> bool:
    """Whether two entries share their memory."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False
