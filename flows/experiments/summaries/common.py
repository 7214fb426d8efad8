"""What all summaries are made of: the result, and numbers with their spread.

Accuracies in rows are fractions; on pages they are percent. A mean over architectures is of their
means over seeds; "±" is the standard deviation over architectures, or over seeds where there is one
architecture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.report import Block
from flows.rows.schema import Row

Rows = Sequence[Row]


@dataclass(frozen=True)
class Summary:
    """What a page says: a sentence, and blocks that show it."""

    sentence: str
    blocks: list[Block]


def unique(rows: Rows, column: str) -> list[Any]:
    """The values of a column, each once, in the order of the rows."""
    return list(dict.fromkeys(row[column] for row in rows))


def mean_std(values: Sequence[float]) -> str | None:
    """Mean ± standard deviation in percent; None of nothing."""
    if not len(values):
        return None
    spread = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{spread}"


def standard_error(values: Sequence[float]) -> float:
    """Of the mean; 0 where one value does not tell."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
