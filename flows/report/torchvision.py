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
from flows.trials.statistics import per_architecture
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
    models: Mapping[str, Mapping[str, float]] = published["models"]
    tuned = [per_architecture(finetuned, init) for init in (ghn, RANDOM)]
    evaluated = good(rows, "torchvision")
    ours = column(evaluated, "accuracy")
    shared = [row for row in evaluated if row["architecture"] in models]
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
            _by_model(rows, predictions, tuned, models),
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
        blocks.insert(2, _last_rows(shared, models, tuned, setting))
    return Section("torchvision", "The 74 models of torchvision", blocks)


def _by_model(
    rows: Sequence[Row],
    predictions: Sequence[Row],
    tuned: Sequence[Mapping[str, float]],
    models: Mapping[str, Mapping[str, float]],
) -> list[list[str | None]]:
    """The cells of each model that has a row, in the order of the paper."""
    of_model = {row["architecture"]: row for row in rows if row["split"] == "torchvision"}
    size = {row["architecture"]: row for row in predictions if row["split"] == "torchvision"}
    cells: list[list[str | None]] = []
    for name, facts in models.items():
        if (row := of_model.get(name)) is None:
            continue
        failed = row["error"] is not None
        parameters = size.get(name, {}).get("parameters") or row.get("parameters")
        cells.append(
            [
                name,
                f"{parameters / 1e6:.1f}" if parameters else None,
                "error" if failed else measured(row["accuracy"], row["images"]),
                None if failed else measured(row["randinit_accuracy"], row["images"]),
                *(percent(found[name]) if name in found else None for found in tuned),
                *(percent(facts[key] / 100, 2) for key in PUBLISHED.values()),
            ]
        )
    return cells


def _last_rows(
    shared: Sequence[Row],
    models: Mapping[str, Mapping[str, float]],
    tuned: Sequence[Mapping[str, float]],
    setting: Setting,
) -> Table:
    """Means, and Kendall's tau of each column with the first published and with our first one."""
    predicted, random = (
        {name: value for name, value in found.items() if name in models} for found in tuned
    )
    columns = {
        f"{setting.images}, predicted": {r["architecture"]: r["accuracy"] for r in shared},
        f"{setting.images}, random": {r["architecture"]: r["randinit_accuracy"] for r in shared},
        f"{setting.images}, predicted, fine-tuned": predicted,
        f"{setting.images}, random, fine-tuned": random,
    } | {
        f"published, {title}": {name: facts[key] / 100 for name, facts in models.items()}
        for title, key in PUBLISHED.items()
    }
    first, ours = columns["published, GHN-3"], columns[f"{setting.images}, predicted"]
    cells: list[list[str | None]] = [
        [title, str(len(found)), spread(np.array(list(found.values())), 2),
         tau(found, first), tau(found, ours)]
        for title, found in columns.items()
        if found
    ]  # fmt: skip
    header = ["column", "models", "mean", "tau with published GHN-3", "tau with our predicted"]
    caption = "As the last rows of table 20: means, and Kendall's rank correlation with two columns"
    return Table(header, cells, caption)


def tau(one: Mapping[str, float], other: Mapping[str, float]) -> str | None:
    """Kendall's tau over the networks that both have, as text; None where that says nothing."""
    names = [name for name in one if name in other]
    if len(names) < 3:
        return None
    found = kendall_tau([one[name] for name in names], [other[name] for name in names])
    return f"{found:.2f}" if math.isfinite(found) else None
