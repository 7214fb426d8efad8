"""What watches a run: the protocol of callbacks, and what they are told.

`ghn.train.progress`, `ghn.train.log` and trackers such as MLflow's are callbacks; averages of
weights and early stopping can be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from ghn.models.hypernetwork import GHN


@dataclass(frozen=True)
class StepRecord:
    """One step, averaged over all ranks.

    Attributes:
        step: number of steps done, this one included.
        loss: cross-entropy plus penalty (eq. 10).
        cross_entropy: mean over architectures.
        penalty: mean over architectures of the sum of norms, before gamma.
        accuracy: mean over architectures, on the augmented training batch.
        gradient_norm: of the hypernetwork, before clipping.
        lr: learning rate of the step.
        skipped: whether the step was left out (not finite, or out of memory).
        images_per_second: images through target networks, times architectures.
        architectures_per_second: target networks trained through.
        waited: share of the time that the loop waited for data.
        left_out: architectures that had no part in the step, their loss or gradient not finite; of
            a report the sum over its steps.
    """

    step: int
    loss: float
    cross_entropy: float
    penalty: float
    accuracy: float
    gradient_norm: float
    lr: float
    skipped: bool
    images_per_second: float
    architectures_per_second: float
    waited: float
    left_out: int = 0

    def metrics(self) -> dict[str, float]:
        """The finite numbers, for a tracker."""
        values = {key: float(value) for key, value in asdict(self).items() if key != "step"}
        return {key: value for key, value in values.items() if math.isfinite(value)}


@dataclass
class Training:
    """A run as callbacks see it.

    Attributes:
        ghn: the hypernetwork, as it is being trained.
        optimizer: its optimizer.
        steps: of the whole run.
        step: steps done.
        stopping: whether the run ends after this step.
    """

    ghn: GHN
    optimizer: torch.optim.Optimizer
    steps: int
    step: int = 0
    stopping: bool = False

    def stop(self) -> None:
        """Ends the run after the current step as if it were the last, on all ranks: early stopping.

        The hypernetwork is evaluated and written, and the same call again trains no further.
        """
        self.stopping = True


class Callback(Protocol):
    """Base of watchers; override what you need. Called on rank 0 only."""

    def on_start(self, training: Training) -> None:
        """Training starts, or resumes, after `training.step` steps."""
        return

    def on_step(self, training: Training, record: StepRecord) -> None:
        """A step is done."""
        return

    def on_report(self, training: Training, record: StepRecord) -> None:
        """Every `log_every` steps: what is typical of those since the last report."""
        return

    def on_evaluation(self, training: Training, metrics: Mapping[str, float]) -> None:
        """The hypernetwork was evaluated."""
        return

    def on_checkpoint(self, training: Training, path: Path) -> None:
        """A checkpoint was written."""
        return

    def on_warning(self, training: Training, message: str) -> None:
        """Something is odd: a skipped step, signs of divergence, a damaged checkpoint."""
        return

    def close(self) -> None:
        """Training ended, in whatever way."""
        return
