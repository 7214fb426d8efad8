"""Rows as text, for spreadsheets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from flows.rows.schema import Row

_KEPT_APART = (
    "correct",
    "val_correct",
    "randinit_correct",
    "logits",
    "labels",
    "sample_images",
    "filters",
    "filters_start",
)
"""Columns of pixels, weights and single images: in the Parquet file, not in the CSV."""


def as_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV, lists as JSON; what is kept per image is left out."""
    if not rows:
        return ""
    buffer = io.StringIO()
    names = [name for name in rows[0] if name not in _KEPT_APART]
    writer = csv.DictWriter(buffer, names, extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                key: json.dumps(value) if isinstance(value, list) else value
                for key, value in row.items()
            }
        )
    return buffer.getvalue()
