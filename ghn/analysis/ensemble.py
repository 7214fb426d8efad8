"""Ensembles of networks by averaging their logits (paper table 15).

Shape legend: M networks, N images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def accuracy(logits_NK: Tensor, y_N: Tensor) -> float:
    """Top-1 accuracy as a fraction."""
    return float((logits_NK.argmax(1) == y_N).double().mean())


def ensemble_accuracy(logits: Sequence[Tensor], y_N: Tensor) -> float:
    """Accuracy of the mean of the M networks' logits (each N x K)."""
    return accuracy(torch.stack(list(logits)).mean(0), y_N)
