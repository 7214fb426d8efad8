"""The table of torchvision's networks, one by one, beside the paper's (table 20)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flows.report.blocks import Block, Section, Table, Text
from flows.report.evaluation import Setting, column, good
from flows.rows.schema import Row
from flows.settings.inits import RANDOM
from flows.words import measured, percent, spread
from ghn.analysis import kendall_tau

PUBLISHED = {
    "GHN-3": "ghn3",
    "GHN-3, 1 epoch": "ghn3_1ep",
    "GHN-3, 10 epochs": "ghn3_10ep",
    "random, 1 epoch": "randinit_1ep",
    "trained": "sota",
}
"""Columns of table 20."""


def torchvision_table(
    rows: Sequence[Row],
    predictions: Sequence[Row],
    finetuned: Sequence[Row],
    ghn: str,
    published: Mapping[str, Any],
    setting: Setting,
) -> Section:
    """The 74 models of table 20, ours beside the published numbers."""
    of_model = {row["architecture"]: row for row in rows if row["split"] == "torchvision"}
    size = {row["architecture"]: row for row in predictions if row["split"] == "torchvision"}
    models: Mapping[str, Mapping[str, float]] = published["models"]
    tuned = best_finetuned(finetuned)
    cells: list[list[str | None]] = []
    for name in models:
        row, facts = of_model.get(name), models[name]
        if row is None:
            continue
        failed = row["error"] is not None
        parameters = size.get(name, {}).get("parameters") or row.get("parameters")
        cells.append(
            [
                name,
                f"{parameters / 1e6:.1f}" if parameters else None,
                "error" if failed else measured(row["accuracy"], row["images"]),
                None if failed else measured(row["randinit_accuracy"], row["images"]),
                *(
                    percent(tuned[key]) if (key := (name, init)) in tuned else None
                    for init in (ghn, RANDOM)
                ),
                *(percent(facts[key] / 100, 2) for key in PUBLISHED.values()),
            ]
        )
    ours = column(good(rows, "torchvision"), "accuracy")
    shared = [row for row in good(rows, "torchvision") if row["architecture"] in models]
    blocks: list[Block] = [
        Text(
            (
                "The 74 torchvision classification models, an even harder test: made by people, not"
                f" drawn by the rules of DeepNets-1M. Ours without training: {spread(ours)}."
                if ours.size
                else "No model of torchvision was evaluated."
            ),
            "lead",
        ),
        Table(
            [
                "model",
                "million parameters",
                "predicted",
                "random",
                "predicted, fine-tuned",
                "random, fine-tuned",
                *PUBLISHED,
            ],
            cells,
            "As table 20 of the paper, in its order. ±: one standard error, of the few images that"
            " a network is measured on. A click on a title sorts.",
            groups=[
                ("", 2),
                (f"ours, {setting.images}", 4),
                ("published, ImageNet", len(PUBLISHED)),
            ],
            sortable=True,
        ),
        Text(
            setting.difference()
            + " At 64 pixels and below, models get a stem for small images. Fine-tuned: test"
            " accuracy at the end of our short fine-tuning, for the models in its budget.",
            "note",
        ),
    ]
    if len(shared) > 2:
        blocks.insert(2, _last_rows(shared, models, tuned, ghn, setting))
    return Section("torchvision", "The 74 models of torchvision", blocks)


def best_finetuned(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """Test accuracy after fine-tuning by (architecture, initialisation), the mean over seeds."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["error"] is None and row.get("selected") and row.get("test_accuracy") is not None:
            values.setdefault((row["architecture"], row["ghn"]), []).append(row["test_accuracy"])
    return {key: float(np.mean(found)) for key, found in values.items()}


def _last_rows(
    shared: Sequence[Row],
    models: Mapping[str, Mapping[str, float]],
    tuned: Mapping[tuple[str, str], float],
    ghn: str,
    setting: Setting,
) -> Table:
    """Means, and Kendall's tau of each column with the first published and with our first one."""
    columns = {
        f"{setting.images}, predicted": {r["architecture"]: r["accuracy"] for r in shared},
        f"{setting.images}, random": {r["architecture"]: r["randinit_accuracy"] for r in shared},
        f"{setting.images}, predicted, fine-tuned": _of(tuned, ghn, models),
        f"{setting.images}, random, fine-tuned": _of(tuned, RANDOM, models),
    } | {
        f"published, {title}": {name: facts[key] / 100 for name, facts in models.items()}
        for title, key in PUBLISHED.items()
    }
    first, ours = columns["published, GHN-3"], columns[f"{setting.images}, predicted"]
    cells: list[list[str | None]] = [
        [title, str(len(found)), spread(np.array(list(found.values())), 2),
         _tau(found, first), _tau(found, ours)]
        for title, found in columns.items()
        if found
    ]  # fmt: skip
    header = ["column", "models", "mean", "tau with published GHN-3", "tau with our predicted"]
    caption = "As the last rows of table 20: means, and Kendall's rank correlation with two columns"
    return Table(header, cells, caption)


def _of(
    tuned: Mapping[tuple[str, str], float], init: str, models: Mapping[str, object]
) -> dict[str, float]:
    return {name: value for (name, own), value in tuned.items() if own == init and name in models}


def _tau(one: Mapping[str, float], other: Mapping[str, float]) -> str | None:
    """Over the models that both have; None where that says nothing."""
    names = [name for name in one if name in other]
    if len(names) < 3:
        return None
    tau = kendall_tau([one[name] for name in names], [other[name] for name in names])
    return f"{tau:.2f}" if math.isfinite(tau) else None
