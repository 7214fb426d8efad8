"""Ensembles of networks that were trained from one initialisation (table 15)."""

from __future__ import annotations

import numpy as np

from flows.experiments.summaries.common import Rows, Summary, mean_std, unique
from flows.report import Table
from flows.trials.statistics import chosen_rows
from ghn.analysis.ensemble import ensemble_accuracy


def ensembles(rows: Rows) -> Summary:
    """Accuracy of networks and of the mean of their logits, per initialisation (table 15); of the
    seeds in which every network was trained.
    """
    good = [row for row in chosen_rows(rows) if row.get("logits")]
    names = unique(good, "architecture")
    body: list[list[str | None]] = []
    gains = []
    for part in unique(good, "part"):
        size = len(unique([row for row in good if row["part"] == part], "architecture"))
        for init in unique(good, "ghn"):
            mine = [row for row in good if (row["part"], row["ghn"]) == (part, init)]
            cells: list[str | None] = [f"{init}, {part}"]
            cells += [
                mean_std([r["test_accuracy"] for r in mine if r["architecture"] == name])
                for name in names
            ]
            found, of_members = [], []
            for seed in unique(mine, "seed"):
                members = [row for row in mine if row["seed"] == seed]
                together = ensemble_of(members) if len(members) == size else None
                if together is not None:
                    found.append(together)
                    of_members.append(float(np.mean([row["test_accuracy"] for row in members])))
            cells.append(mean_std(found))
            body.append(cells)
            if found:
                gain = np.mean(found) - np.mean(of_members)
                gains.append(f"{init}, {part}: {100 * gain:+.1f}")
    table = Table(["", *names, "ensemble"], body, "Test accuracy (%), mean ± std over seeds")
    return Summary(
        "Gain of the ensemble over the mean of its members, in points: " + "; ".join(gains) + ".",
        [table],
    )


def ensemble_of(rows: Rows) -> float | None:
    """Accuracy of the mean logits of one seed's networks; labels come with the rows (column
    `labels`).
    """
    import torch

    if not rows or rows[0].get("labels") is None:
        return None
    y_N = torch.tensor(rows[0]["labels"])
    return ensemble_accuracy([torch.tensor(row["logits"]).view(len(y_N), -1) for row in rows], y_N)
