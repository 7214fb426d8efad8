"""What a training leaves, and how its working directory becomes that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows.settings import paths
from ghn.files import atomic_path
from ghn.train.log import read_log

CURVE_NAME = "curve.json"
"""Evaluations against steps, for `dvc plots`."""

STEPS_NAME = "steps.csv"
"""Loss and accuracy of the training steps, for `dvc plots` and the report."""

SUMMARY_NAME = "training.json"
"""The last evaluation, for `dvc metrics`."""

_STRETCHES = 200
_FINISHED = ".finished-"
_REMOVED = ".removed-"


def publish(directory: Path, weights: Path, output: Path, outcome: str) -> None:
    """Copies the outcome to where later stages and DVC look for it.

    Killed at any moment, until DVC has noted the outcome too, the next call of the stage ends the
    same without training again: of the run its last checkpoint stays until another run begins.

    Args:
        directory: of the run, below `output`/checkpoints.
        weights: the hypernetwork, in it.
        output: where the outcome goes.
        outcome: digest of what the outcome depends on beside the run, such as its curve.

    Raises:
        DamagedFileError: the log of the run is not as it was written.
    """
    lines = read_log(directory / "curve.jsonl")
    for name, content in ((CURVE_NAME, lines), (SUMMARY_NAME, lines[-1] if lines else {})):
        with atomic_path(output / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
    with atomic_path(output / paths.WEIGHTS_NAME) as temporary:
        shutil.copyfile(weights, temporary)
    steps = read_log(directory / "steps.jsonl")
    with atomic_path(output / STEPS_NAME) as temporary:
        temporary.write_text(thinned(steps))
    checkpoints = directory / "checkpoints"
    last = max(path.stem for path in checkpoints.glob("step-*.sha256"))
    for path in checkpoints.glob("step-*"):
        if path.stem != last:
            path.unlink()
    directory.rename(_finished(directory, outcome))


def begin(directory: Path, outcome: str) -> None:
    """Takes up the finished run of `directory` and `outcome` at its end, and removes other finished
    ones, which get another name first: half of a run is none.

    Only for whoever has the lock of the hypernetwork.
    """
    finished = _finished(directory, outcome)
    if finished.exists() and not directory.exists():
        finished.rename(directory)
    for removed in directory.parent.glob(f"{_REMOVED}*"):
        shutil.rmtree(removed)
    for other in directory.parent.glob(f"{_FINISHED}*"):
        shutil.rmtree(other.rename(other.with_name(_REMOVED + directory.name)))


def _finished(directory: Path, outcome: str) -> Path:
    return directory.with_name(f"{_FINISHED}{directory.name}-{outcome}")


def thinned(steps: Sequence[Mapping[str, Any]]) -> str:
    """The steps as CSV, averaged over at most `_STRETCHES` of equal length; skipped steps are left
    out.
    """
    names = ("step", "loss", "cross_entropy", "accuracy", "gradient_norm", "lr")
    rows = np.array(
        [[step[name] for name in names] for step in steps if not step["skipped"]], dtype=np.float64
    )
    stretches = np.array_split(rows, min(_STRETCHES, len(rows))) if len(rows) else []
    lines = [",".join(f"{value:.6g}" for value in stretch.mean(axis=0)) for stretch in stretches]
    return "\n".join([",".join(names), *lines]) + "\n"
