"""What watches a run: progress on the terminal, a log file, an early warning; trackers such as
MLflow plug in here.
"""

from __future__ import annotations

import json
import math
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ghn.files import atomic_path


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

    def metrics(self) -> dict[str, float]:
        """The finite numbers, for a tracker."""
        values = {key: float(value) for key, value in asdict(self).items() if key != "step"}
        return {key: value for key, value in values.items() if math.isfinite(value)}


class Callback:
    """Base of watchers; override what you need. Called on rank 0 only."""

    def on_start(self, step: int, steps: int) -> None:
        """Training starts, or resumes, after `step` of `steps`."""

    def on_step(self, record: StepRecord) -> None:
        """A step is done."""

    def on_report(self, record: StepRecord) -> None:
        """Every `log_every` steps: means since the last report."""

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """The hypernetwork was evaluated."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """A checkpoint was written."""

    def on_warning(self, step: int, message: str) -> None:
        """Something is odd: a skipped step, signs of divergence, a damaged checkpoint."""

    def close(self) -> None:
        """Training ended, in whatever way."""


class ProgressBar(Callback):
    """A live line on a terminal, a line per report elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._progress: Progress | None = None
        self._steps = 0

    def on_start(self, step: int, steps: int) -> None:
        """Shows the bar."""
        self._steps = steps
        if step:
            self._print(f"resuming after step {step}")
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
            self._task = self._progress.add_task("", total=steps, completed=step, numbers="")

    def on_step(self, record: StepRecord) -> None:
        """Moves the bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=record.step)

    def on_report(self, record: StepRecord) -> None:
        """Shows the numbers."""
        text = (
            f"loss {record.loss:.3f}  accuracy {record.accuracy:.1%} "
            f" {record.images_per_second:.0f} images/s  {record.architectures_per_second:.1f}"
            " architectures/s"
        )
        if self._progress is not None:
            self._progress.update(self._task, numbers=text)
        else:
            self._print(f"step {record.step}/{self._steps}  {text}  lr {record.lr:.1e}")

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Prints the metrics."""
        self._print(
            f"step {step}: " + "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        )

    def on_warning(self, step: int, message: str) -> None:
        """Prints the warning."""
        self._print(f"step {step}: {message}", style="yellow")

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Removes the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class JsonLog(Callback):
    """A file with one JSON object per step (`steps.jsonl`) and one per evaluation (`curve.jsonl`).

    Numbers are written with all their digits. A run that resumes first drops what lies beyond its
    checkpoint, so that the files read as if it had never stopped.
    """

    def __init__(self, directory: Path) -> None:
        self.steps = directory / "steps.jsonl"
        self.curve = directory / "curve.jsonl"
        self._file: IO[str] | None = None

    def on_start(self, step: int, steps: int) -> None:
        """Drops lines after `step` and opens the files for appending."""
        for path in (self.steps, self.curve):
            lines = path.read_text().splitlines() if path.is_file() else []
            with atomic_path(path) as temporary:
                temporary.write_text(
                    "".join(f"{line}\n" for line in lines if _step_of(line) <= step)
                )
        self._file = self.steps.open("a")

    def on_step(self, record: StepRecord) -> None:
        """Appends the step; it survives a kill of the process."""
        assert self._file is not None
        self._file.write(json.dumps(asdict(record)) + "\n")
        self._file.flush()

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends the metrics."""
        with self.curve.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


class DivergenceWatch:
    """Says early that a run goes wrong.

    Two signs: the median cross-entropy of the last `window` steps has risen well above the lowest
    such median, and the
    gradient norm has risen to ten times its median of the last 500 steps. Medians, because the loss
    of a single network without norms can be astronomic without harm to the run. Each sign is
    reported once until it has passed.
    """

    def __init__(self, window: int = 50, rise: float = 0.1) -> None:
        self.rise = rise
        self._losses: deque[float] = deque(maxlen=window)
        self._norms: deque[float] = deque(maxlen=500)
        self._lowest = math.inf
        self._active: set[str] = set()

    def look(self, cross_entropy: float, gradient_norm: float) -> list[str]:
        """Takes a step's numbers in and returns new warnings."""
        self._losses.append(cross_entropy)
        warnings = []
        if len(self._losses) == self._losses.maxlen:
            loss, norm = median(self._losses), median(self._norms)
            self._lowest = min(self._lowest, loss)
            text = (
                f"the loss rises: its running median is {loss:.3f}, it was {self._lowest:.3f};"
                " lower lr or clip"
            )
            warnings += self._switch("loss", loss > (1 + self.rise) * self._lowest, text)
            text = f"gradient norm {gradient_norm:.3g}, ten times its median {norm:.3g}"
            warnings += self._switch("norm", gradient_norm > 10 * norm, text)
        self._norms.append(gradient_norm)
        return warnings

    def _switch(self, sign: str, on: bool, text: str) -> list[str]:
        new = on and sign not in self._active
        (self._active.add if on else self._active.discard)(sign)
        return [text] if new else []


def _step_of(line: str) -> float:
    try:
        found: Any = json.loads(line)["step"]
        return float(found)
    except (ValueError, KeyError, TypeError):  # a torn last line
        return math.inf
