"""Accuracy of a network as it is, batch norm using the statistics of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from flows.rows.schema import finite
from ghn.outputs import heads
from ghn.predict import batch_statistics


@dataclass(frozen=True)
class Score:
    """How one network does on some images.

    Attributes:
        accuracy: share of images whose class is ranked first. An image whose logits are not finite
            counts as a guess among the classes.
        top5: share among the first five, likewise.
        loss: mean cross-entropy; None where it is not finite.
        correct: (I,), per image, in order, whether its class is ranked first.
        nonfinite: images whose logits are not finite.
    """

    accuracy: float
    top5: float
    loss: float | None
    correct: NDArray[np.bool_]
    nonfinite: int


@torch.no_grad()
def score(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Score:
    """Evaluates `model` (logits (B, classes) from images (B, 3, S, S)) on batches of images and
    labels (B,).
    """
    found: list[Tensor] = []
    guessed = top5 = loss = 0.0
    nonfinite = 0
    with batch_statistics(model):
        for images, labels in batches:
            logits = heads(model(images))[0]
            classes = logits.shape[1]
            sound = logits.isfinite().all(dim=1)
            best = logits.topk(min(5, classes), dim=1).indices == labels[:, None]
            best &= sound[:, None]
            found.append(best[:, 0])
            top5 += int(best.any(dim=1).sum())
            lost = len(labels) - int(sound.sum())
            nonfinite += lost
            guessed += lost / classes
            top5 += lost * min(5, classes) / classes
            loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
    correct = torch.cat(found).cpu().numpy()
    n = len(correct)
    return Score((int(correct.sum()) + guessed) / n, top5 / n, finite(loss / n), correct, nonfinite)
