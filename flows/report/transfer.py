"""Section on transfer to other images from few labels (paper table 7)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flows.report.blocks import Section, Table, Text
from flows.report.inits import in_order, init_name, seen_before
from flows.report.learning import by_network, comparisons
from flows.rows.schema import Row
from flows.trials.statistics import chosen_rows
from flows.words import spread


def transfer(rows: Sequence[Row], ghn: str, published: Mapping[str, Any]) -> Section:
    """Few-shot transfer to another data set (table 7); predicted parameters are those by `ghn`."""
    chosen = chosen_rows(rows)
    if not chosen:
        reasons = sorted({row["error"] for row in rows if row["error"]})
        text = f"No transfer was measured{': ' + reasons[0] if reasons else ''}."
        return Section("transfer", "Transfer from few labels", [Text(text, "warning")])
    accuracy: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in chosen:
        if row["test_accuracy"] is not None:
            accuracy[row["architecture"], row["ghn"]].append(row["test_accuracy"])
    inits = in_order((init for _, init in accuracy), ghn)
    cells: list[list[str | None]] = []
    bold = set()
    for number, architecture in enumerate(sorted({name for name, _ in accuracy})):
        values = [accuracy.get((architecture, init)) for init in inits]
        cells.append(
            [architecture, *(spread(np.array(found)) if found else None for found in values)]
        )
        means = [float(np.mean(found)) if found else -1.0 for found in values]
        bold.add((number, 1 + int(np.argmax(means))))
    first = chosen[0]
    grid = sorted({row["lr"] for row in rows if row["lr"]})
    table_7 = published["table_7"]
    published_row = "; ".join(
        f"{name} {' / '.join(f'{value:.1f}' for value in table_7[name])} %"
        for name in ("RandInit", "Orthogonal", "GHN-2", "GHN-3-XL/m16")
    )
    return Section(
        "transfer",
        "Transfer from few labels",
        [
            Text(
                f"The hypernetwork was trained on {' and '.join(first['lineage'])}; here its"
                f" parameters, with a fresh class head, are the start of training on"
                f" {first['images']} from {first['n_train'] + first['n_val']:,} labels.",
                "lead",
            ),
            *_warning(first),
            Table(
                ["network", *(init_name(init, ghn) for init in inits)],
                cells,
                f"Test accuracy, {_over(chosen)}; the best of a row in bold.",
                bold=frozenset(bold),
            ),
            *by_network(rows, ghn, "after transfer"),
            *comparisons(rows, ghn),
            Text(
                f"Same grid for all: learning rates {', '.join(f'{lr:g}' for lr in grid)},"
                f" {first['steps']} steps, chosen on {first['n_val']:,} held-out labels. Published"
                f" (table 7, {table_7['note']}): {published_row}.",
                "note",
            ),
        ],
    )


def _warning(row: Row) -> list[Text]:
    """A warning where the target is among what the hypernetwork was trained on."""
    if not seen_before(row):
        return []
    return [
        Text(
            f"Images of {row['images']} are among those that the hypernetwork, or the one that its"
            " training began from, was trained on: this shows few labels, not a transfer to images"
            " never seen.",
            "warning",
        )
    ]


def _over(rows: Sequence[Row]) -> str:
    seeds = len({row["seed"] for row in rows})
    return "one seed" if seeds == 1 else f"mean ± standard deviation over {seeds} seeds"
