"""What a training leaves, and how its working directory becomes that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows.settings import paths
from ghn.files import atomic_path, remove_temporaries

CURVE_NAME = "curve.json"
"""Evaluations against steps, for `dvc plots`."""

STEPS_NAME = "steps.csv"
"""Loss and accuracy of the training steps, for `dvc plots` and the report."""

SUMMARY_NAME = "training.json"
"""The last evaluation, for `dvc metrics`."""

_FINISHED = ".finished-"


def publish(directory: Path, weights: Path, output: Path) -> None:
    """Copies the outcome to where later stages and DVC look for it, and forgets how it came about.

    Killed at any moment, the next call of the stage ends the same: the directory of the run is
    whole until all is published, and has another name before anything in it is removed.

    Args:
        directory: of the run, below `output`/checkpoints.
        weights: the hypernetwork, in it.
        output: where the outcome goes.
    """
    lines = [json.loads(line) for line in (directory / "curve.jsonl").read_text().splitlines()]
    for name, content in ((CURVE_NAME, lines), (SUMMARY_NAME, lines[-1] if lines else {})):
        with atomic_path(output / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
    with atomic_path(output / paths.WEIGHTS_NAME) as temporary:
        shutil.copyfile(weights, temporary)
    steps = [json.loads(line) for line in (directory / "steps.jsonl").read_text().splitlines()]
    with atomic_path(output / STEPS_NAME) as temporary:
        temporary.write_text(thinned(steps))
    directory.rename(directory.with_name(_FINISHED + directory.name))
    clean(output)


def clean(output: Path) -> None:
    """Removes what killed trainings left: temporary files, and runs that were published.

    Only for whoever has the lock of `output`.
    """
    remove_temporaries(output)
    for finished in (output / "checkpoints").glob(f"{_FINISHED}*"):
        shutil.rmtree(finished)


def thinned(steps: Sequence[Mapping[str, Any]], windows: int = 200) -> str:
    """The steps as CSV, averaged over at most `windows` stretches of equal length; skipped steps
    are left out.
    """
    names = ("step", "loss", "cross_entropy", "accuracy", "gradient_norm", "lr")
    rows = np.array(
        [[step[name] for name in names] for step in steps if not step["skipped"]], dtype=np.float64
    )
    stretches = np.array_split(rows, min(windows, len(rows))) if len(rows) else []
    lines = [",".join(f"{value:.6g}" for value in stretch.mean(axis=0)) for stretch in stretches]
    return "\n".join([",".join(names), *lines]) + "\n"
