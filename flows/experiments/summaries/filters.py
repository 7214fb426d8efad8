"""First-layer filters as they start and after training (fig. 2)."""

from __future__ import annotations

import numpy as np

from flows.experiments.summaries.common import Rows, Summary, unique
from flows.report.blocks import Picture, Pictures
from flows.report.pictures import filter_grid, png
from flows.rows.schema import Row
from flows.trials.inits import is_hypernetwork
from flows.trials.statistics import chosen_rows


def first_layers(rows: Rows) -> Summary:
    """For each network: predicted by each hypernetwork, and trained from random parameters."""
    kept = [row for row in chosen_rows(rows) if row.get("filters")]
    blocks = []
    for architecture in unique(kept, "architecture"):
        mine = [row for row in kept if row["architecture"] == architecture]
        pictures = []
        shown: set[str] = set()
        for row in mine:
            if is_hypernetwork(row["ghn"]) and row["ghn"] not in shown:
                pictures.append(_picture(row, "filters_start", f"{row['ghn']}, predicted"))
                shown.add(row["ghn"])
        for row in mine:
            title = f"{row['ghn']}, {row['part']}"
            if title not in shown and not is_hypernetwork(row["ghn"]):
                accuracy = f"test accuracy {100 * row['test_accuracy']:.1f} %"
                pictures.append(_picture(row, "filters", title, f"{row['steps']} steps", accuracy))
                shown.add(title)
        blocks.append(Pictures(pictures, f"First-layer filters of {architecture}"))
    names = ", ".join(unique(kept, "architecture"))
    return Summary(f"First-layer filters of {names}, predicted and trained.", list(blocks))


def _picture(row: Row, column: str, title: str, *lines: str) -> Picture:
    values = np.array(row[column], np.float32).reshape(row["filters_shape"])
    alt = f"{len(values)} filters of the first layer: {title}"
    return Picture(png(filter_grid(values)), alt, title, lines)
