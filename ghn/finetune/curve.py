"""What training a network looked like."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Curve:
    """What training looked like, an entry per evaluation: plain lists, ready for JSON and Parquet.

    Attributes:
        step: optimiser steps done.
        val_accuracy: fraction of validation images classified correctly.
        train_loss, train_accuracy: mean over the batches since the last entry (of batches before
            their update); NaN at the first.
        seconds: since the start, evaluations included.
        diverged: the loss became NaN or infinite; training stopped there.
        steps_per_second: of training alone.
    """

    step: list[int] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    diverged: bool = False
    steps_per_second: float = 0.0

    @property
    def final(self) -> float:
        """Validation accuracy at the end."""
        return self.val_accuracy[-1]

    def add(
        self,
        step: int,
        accuracy: float,
        seconds: float,
        loss: float = math.nan,
        train_accuracy: float = math.nan,
    ) -> None:
        """Adds an entry."""
        self.step.append(step)
        self.val_accuracy.append(accuracy)
        self.train_loss.append(loss)
        self.train_accuracy.append(train_accuracy)
        self.seconds.append(seconds)

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)
