"""A training that ends after so many minutes."""

from __future__ import annotations

import time
from pathlib import Path

from ghn.errors import DamagedFileError
from ghn.files import atomic_path
from ghn.train import Callback, Training
from ghn.train.callbacks import StepRecord


class Budget(Callback):
    """Ends a run after the step in which its time is over, as if that were the last.

    The time counts from the first step, evaluations included, over all interruptions; what was
    lost with one does not count. How many steps a budget has room for depends on the machine, so
    equal bytes come of equal steps alone.

    Args:
        minutes: the budget.
        file: keeps how long the run has taken up to its last checkpoint.
    """

    def __init__(self, minutes: float, file: Path) -> None:
        self._seconds, self._file = 60 * minutes, file
        self._before = self._begin = 0.0

    def on_start(self, training: Training) -> None:
        """Takes up the time of the run where its last checkpoint left it.

        Raises:
            DamagedFileError: the file is not as it was written.
        """
        if training.step and self._file.exists():
            try:
                self._before = float(self._file.read_bytes())
            except ValueError:
                raise DamagedFileError(
                    f"{self._file}: no number of seconds; write how many the run has taken, or"
                    " delete it to count from here on"
                ) from None
        self._begin = time.perf_counter()

    def on_step(self, training: Training, record: StepRecord) -> None:
        """Ends the run where its time is over."""
        if self._taken() >= self._seconds:
            training.stop()

    def on_checkpoint(self, training: Training, path: Path) -> None:
        """Keeps the time beside the checkpoint."""
        with atomic_path(self._file) as temporary:
            temporary.write_text(f"{self._taken():.1f}\n")

    def _taken(self) -> float:
        return self._before + time.perf_counter() - self._begin
