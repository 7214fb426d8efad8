"""What trials come to in a few numbers and lines, for DVC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows.rows.metrics import write_metrics
from flows.trials.statistics import held, per_architecture
from ghn.files import atomic_path

RANDOM = "randinit"


def write_outcome(stage: str, rows: Sequence[dict[str, Any]], ghn: str) -> None:
    """Writes results/metrics/<stage>.json: test accuracy from predicted and from random parameters,
    the mean over networks.

    Args:
        stage: its name in dvc.yaml.
        rows: of the trials.
        ghn: the hypernetwork, as the rows name it.
    """
    means = [list(per_architecture(rows, init).values()) for init in (ghn, RANDOM)]
    predicted, random = (float(np.mean(values)) if values else None for values in means)
    networks = {row["architecture"] for row in rows}
    failed = {row["architecture"] for row in rows if row["error"] is not None}
    write_metrics(
        stage,
        {
            "networks": len(networks),
            "failed": len(failed),
            "predicted": predicted,
            "random": random,
        },
    )


def write_curves(file: Path, rows: Sequence[dict[str, Any]], ghn: str) -> None:
    """Writes a table for `dvc plots`: validation accuracy at each step that all chosen runs reach,
    the mean over them, from predicted and from random parameters.

    Args:
        file: a CSV file.
        rows: of the trials.
        ghn: the hypernetwork, as the rows name it.
    """
    chosen = [row for row in rows if row["error"] is None and row.get("selected")]
    series = [[row for row in chosen if row["ghn"] == init] for init in (ghn, RANDOM)]
    lines = ["step,predicted,random"]
    for step in sorted({step for runs in series for row in runs for step in row["step"]}):
        values = [np.array([held(row, [step])[0] for row in runs]) for runs in series]
        if all(np.isfinite(found).all() and len(found) for found in values):
            lines.append(",".join([str(step), *(f"{found.mean():.5f}" for found in values)]))
    with atomic_path(file) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
