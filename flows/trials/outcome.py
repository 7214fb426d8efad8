"""What trials come to in a few numbers and lines, for DVC and MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flows.rows.metrics import write_metrics
from flows.rows.schema import Row, failures
from flows.settings.inits import RANDOM
from flows.trials.statistics import chosen_rows, compare, held, per_architecture
from ghn.files import atomic_path


def write_outcome(stage: str, rows: Sequence[Row], ghn: str) -> None:
    """Writes results/metrics/<stage>.json: test accuracy from predicted and from random parameters,
    the mean over networks.

    Args:
        stage: its name in dvc.yaml.
        rows: of the trials.
        ghn: the hypernetwork, as the rows name it.
    """
    networks = {row["architecture"] for row in rows}
    failed = {row["architecture"] for row in failures(rows)}
    write_metrics(
        stage,
        {
            "networks": len(networks),
            "failed": len(failed),
            "predicted": _mean(rows, ghn),
            "random": _mean(rows, RANDOM),
        },
    )


def metrics_of(rows: Sequence[Row], ghn: str, stage: str) -> dict[str, float]:
    """Metrics of a stage's trials for MLflow: test accuracy per initialisation, the mean over
    networks, and the paired comparison with random parameters.
    """
    metrics = {f"{stage}_failed": float(len(failures(rows)))}
    for init in dict.fromkeys(row["ghn"] for row in rows):
        if (tested := _mean(rows, init)) is not None:
            metrics[f"{stage}_{'ghn' if init == ghn else init}_test_accuracy"] = tested
    if (comparison := compare(rows, ghn, RANDOM)) is not None:
        metrics[f"{stage}_gain_over_randinit"] = comparison.mean_difference
        metrics[f"{stage}_wins_over_randinit"] = comparison.wins
    return metrics


def write_curves(file: Path, rows: Sequence[Row], ghn: str) -> None:
    """Writes a table for `dvc plots`: validation accuracy along training, the mean over the chosen
    runs, from predicted and from random parameters. A run that ended before a step counts there
    with what it ended with; steps at which some run has no value yet are left out.

    Args:
        file: a CSV file.
        rows: of the trials.
        ghn: the hypernetwork, as the rows name it.
    """
    chosen = chosen_rows(rows)
    series = [[row for row in chosen if row["ghn"] == init] for init in (ghn, RANDOM)]
    lines = ["step,predicted,random"]
    for step in sorted({step for runs in series for row in runs for step in row["step"]}):
        values = [np.array([held(row, [step])[0] for row in runs]) for runs in series]
        if all(np.isfinite(found).all() and len(found) for found in values):
            lines.append(",".join([str(step), *(f"{found.mean():.5f}" for found in values)]))
    with atomic_path(file) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _mean(rows: Sequence[Row], init: str) -> float | None:
    """Test accuracy from an initialisation, the mean over networks that have one."""
    values = list(per_architecture(rows, init).values())
    return float(np.mean(values)) if values else None
