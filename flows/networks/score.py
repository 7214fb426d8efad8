"""Accuracy of a network as it is, batch norm using the statistics of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from flows.rows.schema import finite
from ghn.predict import batch_statistics


@dataclass(frozen=True)
class Score:
    """Accuracy of one network on the batches."""

    accuracy: float
    top5: float
    loss: float | None


@torch.no_grad()
def score(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Score:
    """Evaluates `model` (logits (B, classes) from images (B, 3, S, S)) on batches of images and
    labels (B,).
    """
    right = top5 = n = 0
    loss = 0.0
    with batch_statistics(model):
        for images, labels in batches:
            logits = model(images)
            logits = logits if isinstance(logits, Tensor) else logits[0]  # auxiliary heads
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            right += int(best[:, 0].sum())
            top5 += int(best.any(dim=1).sum())
            loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
            n += len(labels)
    return Score(right / n, top5 / n, finite(loss / n))
