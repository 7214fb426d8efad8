"""The log of a run: a file of its steps, and one of its evaluations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from ghn.files import atomic_path, writing
from ghn.train.callbacks import Callback, StepRecord, Training


class JsonLog(Callback):
    """A file with one JSON object per step (`steps.jsonl`) and one per evaluation (`curve.jsonl`).

    Numbers are written with all their digits; those that are not finite, which JSON does not have,
    become null. A run that resumes first drops what lies beyond its checkpoint, so that the files
    read as if it had never stopped; an evaluation that is done again replaces the one before.
    """

    def __init__(self, directory: Path) -> None:
        self.steps = directory / "steps.jsonl"
        self.curve = directory / "curve.jsonl"
        self._file: IO[str] | None = None

    def on_start(self, training: Training) -> None:
        """Drops lines after the checkpoint and opens the file of steps for appending."""
        for path in (self.steps, self.curve):
            _rewrite(path, lambda step: step <= training.step)
        self._file = self.steps.open("a")

    def on_step(self, training: Training, record: StepRecord) -> None:
        """Appends the step; it survives a kill of the process."""
        assert self._file is not None
        with writing(self.steps):
            self._file.write(_line(asdict(record)))
            self._file.flush()

    def on_evaluation(self, training: Training, metrics: Mapping[str, float]) -> None:
        """Adds the metrics as those of the current step."""
        step = training.step
        _rewrite(self.curve, lambda other: other < step, _line({"step": step, **metrics}))

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            with writing(self.steps):
                self._file.close()


def _rewrite(path: Path, keep: Callable[[float], bool], more: str = "") -> None:
    """Keeps the whole lines whose step is to be kept, and adds `more`."""
    lines = path.read_text().splitlines() if path.is_file() else []
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines if keep(_step_of(line))) + more)


def _line(values: Mapping[str, Any]) -> str:
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a torn last line
        return math.inf
