"""Progress of a run on the terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ghn.train.callbacks import Callback, StepRecord, Training


class ProgressBar(Callback):
    """A live line on a terminal, a line per report elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._progress: Progress | None = None
        self._start = 0, time.monotonic()

    def on_start(self, training: Training) -> None:
        """Shows the bar."""
        self._start = training.step, time.monotonic()
        if training.step:
            self._print(f"resuming after step {training.step}")
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self._console,
            )
            self._progress.start()
            self._task = self._progress.add_task(
                "", total=training.steps, completed=training.step, numbers=""
            )

    def on_step(self, training: Training, record: StepRecord) -> None:
        """Moves the bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=record.step)

    def on_report(self, training: Training, record: StepRecord) -> None:
        """Shows the numbers."""
        text = (
            f"loss {record.loss:.3f}  accuracy {record.accuracy:.1%} "
            f" {record.images_per_second:.0f} images/s  {record.architectures_per_second:.1f}"
            " architectures/s"
        )
        if self._progress is not None:
            self._progress.update(self._task, numbers=text)
        else:
            left = self._left(training, record.step)
            self._print(f"step {record.step}/{training.steps}  {text}  lr {record.lr:.1e}  {left}")

    def _left(self, training: Training, step: int) -> str:
        """How long the remaining steps take at the pace since the start, evaluations included."""
        begun, at = self._start
        seconds = (training.steps - step) * (time.monotonic() - at) / max(1, step - begun)
        hours, minutes = divmod(math.ceil(seconds / 60), 60)
        return f"{hours} h {minutes:02} min left" if hours else f"{minutes} min left"

    def on_evaluation(self, training: Training, metrics: Mapping[str, float]) -> None:
        """Prints the metrics."""
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self._print(f"step {training.step}: {numbers}")

    def on_warning(self, training: Training, message: str) -> None:
        """Prints the warning."""
        self._print(f"step {training.step}: {message}", style="yellow")

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Removes the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
