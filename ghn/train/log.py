"""The log of a run: a file of its steps, and one of its evaluations."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from ghn.errors import DamagedFileError
from ghn.files import atomic_path, writing
from ghn.train.callbacks import Callback, StepRecord, Training


class JsonLog(Callback):
    """A file with one JSON object per step (`steps.jsonl`) and one per evaluation (`curve.jsonl`).

    Numbers are written with all their digits; those that are not finite, which JSON does not have,
    become null. Each line ends with a `check` of itself, by which `read_log` knows a damaged one. A
    run that resumes first drops what lies beyond its checkpoint, so that the files read as if it
    had never stopped; an evaluation that is done again replaces the one before.
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
        _rewrite(self.curve, lambda other: other < step, {"step": step, **metrics})

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            with writing(self.steps):
                self._file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The steps or evaluations of a log, without their checks; a torn last line (a kill while it
    was written) is left out.

    Raises:
        DamagedFileError: a line is not as it was written.
    """
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.is_file() else []
    if lines and not lines[-1].endswith("\n"):
        del lines[-1]
    checked = any('"check": ' in line for line in lines)  # logs of old runs have no checks
    found = []
    for number, line in enumerate(lines, start=1):
        entry = _entry(line, checked)
        if entry is None:
            raise DamagedFileError(
                f"{path}, line {number}: not as it was written; put the file back, or delete"
                f" {path.parent} to train anew"
            )
        found.append(entry)
    return found


def _entry(line: str, checked: bool) -> dict[str, Any] | None:
    """The values of a line; None if it is damaged."""
    try:
        values = dict(json.loads(line))
        float(values["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if checked is not bool(values.pop("check", None)) or (checked and line != _line(values)):
        return None
    return values


def _rewrite(
    path: Path, keep: Callable[[float], bool], more: Mapping[str, Any] | None = None
) -> None:
    """Keeps the whole lines whose step is to be kept, and adds `more`."""
    kept = [values for values in read_log(path) if keep(values["step"])]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(map(_line, [*kept, *([more] if more else [])])))


def _line(values: Mapping[str, Any]) -> str:
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    check = f"{zlib.crc32(json.dumps(finite).encode()):08x}"
    return json.dumps({**finite, "check": check}, allow_nan=False) + "\n"
