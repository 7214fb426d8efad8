"""The moving average of a hypernetwork's weights."""

from __future__ import annotations

import copy

import torch

from ghn.models.hypernetwork import GHN


class WeightAverage:
    """An exponential moving average of a hypernetwork's weights, as LoGAH trains with.

    The decay is warmed up, min(limit, (t + 1) / (t + 10)) at step t, so that the average forgets
    where it began. Buffers are copied.

    Attributes:
        ghn: a hypernetwork with the averaged weights, in evaluation mode.
    """

    def __init__(self, ghn: GHN, limit: float) -> None:
        self.limit = limit
        self.ghn = copy.deepcopy(ghn).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, ghn: GHN, step: int) -> None:
        """Takes in the weights after step number `step` (the first is 0)."""
        decay = min(self.limit, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(self.ghn.parameters()), list(ghn.parameters()), 1 - decay)
        for own, other in zip(self.ghn.buffers(), ghn.buffers(), strict=True):
            own.copy_(other)
