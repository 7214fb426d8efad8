"""What a training leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainResult:
    """Outcome of a run.

    Attributes:
        weights: the final hypernetwork.
        best: the weights with the best metric, if it was evaluated.
        metrics: of the last evaluation.
        skipped: steps left out.
        left_out: architectures left out of steps that were taken.
    """

    weights: Path
    best: Path | None
    metrics: dict[str, float]
    skipped: int
    left_out: int = 0
