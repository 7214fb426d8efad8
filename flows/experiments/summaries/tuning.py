"""Summaries of how networks were tuned: learning rates and optimisers (tables 17 and 18)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from flows.experiments.summaries.common import Rows, Summary, mean_std, unique
from flows.experiments.summaries.trained import verdicts
from flows.report import Table
from flows.rows.schema import sound


def learning_rates(rows: Rows) -> Summary:
    """How often the learning rate that is best on average is (nearly) the best for a network (table
    18).

    A rate counts with the best of the grid's other fields, and if every network has it.
    """
    good = sound(rows)
    body, sentences = [], []
    for init in unique(good, "ghn"):
        table = _by_rate([row for row in good if row["ghn"] == init])
        rates = sorted(set.intersection(*(set(found) for found in table.values())))
        if not rates:
            body.append([init, None, None, None])
            sentences.append(f"{init}: no rate was measured on every network.")
            continue
        table = {name: {lr: found[lr] for lr in rates} for name, found in table.items()}
        best = max(rates, key=lambda lr: float(np.mean([found[lr] for found in table.values()])))
        shares = [
            float(np.mean([found[best] >= max(found.values()) - slack for found in table.values()]))
            for slack in (0.0, 0.01, 0.02)
        ]
        body.append([f"{init} (lr {best:g})", *(f"{100 * share:.0f}" for share in shares)])
        sentences.append(
            f"{init}: {best:g} is within a point of the best rate for {100 * shares[1]:.0f} % of"
            " networks."
        )
    caption = "Networks (%) that one learning rate serves, by validation accuracy"
    return Summary(" ".join(sentences), [Table(["", "±0 %", "±1 %", "±2 %"], body, caption)])


def _by_rate(rows: Rows) -> dict[str, dict[float, float]]:
    """Validation accuracy of each network at each learning rate: per seed the best of the points
    with that rate, and of those the mean.
    """
    best: dict[tuple[str, float, int], float] = {}
    for row in rows:
        key = row["architecture"], row["lr"], row["seed"]
        best[key] = max(row["final_val_accuracy"], best.get(key, 0.0))
    values: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (name, lr, _), value in best.items():
        values[name][lr].append(value)
    return {
        name: {lr: float(np.mean(found)) for lr, found in rates.items()}
        for name, rates in values.items()
    }


_POINT = ("part", "optimizer", "lr", "weight_decay")
"""The columns that tell points of all parts apart."""


def optimisers(rows: Rows) -> Summary:
    """Validation accuracy per optimiser, learning rate and weight decay (table 17)."""
    good = sound(rows)
    points = list(dict.fromkeys(tuple(row[name] for name in _POINT) for row in good))
    body: list[list[str | None]] = []
    for init in unique(good, "ghn"):
        cells: list[str | None] = [init]
        for point in points:
            found = [
                row
                for row in good
                if row["ghn"] == init and tuple(row[name] for name in _POINT) == point
            ]
            cells.append(mean_std([row["final_val_accuracy"] for row in found]))
        body.append(cells)
    header = ["", *(_label(point, points) for point in points)]
    table = Table(header, body, "Validation accuracy (%) at the end, mean ± std over seeds")
    told = []
    for part in unique(good, "part"):
        mine = [row for row in good if row["part"] == part]
        told += verdicts(mine, f"{part}: ")
    return Summary(" ".join(told), [table])


def _label(point: tuple[Any, ...], points: Sequence[tuple[Any, ...]]) -> str:
    """A point's part and learning rate, and what else tells it apart from those of its part."""
    part, optimizer, lr, weight_decay = point
    of_part = [other for other in points if other[0] == part]
    told = [part, f"lr {lr:g}"]
    if len({other[1] for other in of_part}) > 1:
        told.insert(1, optimizer)
    if len({other[3] for other in of_part}) > 1:
        told.append(f"weight decay {weight_decay:g}")
    return ", ".join(told)
