"""Paired comparison of two initialisations over architectures."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows.rows.schema import Row, sound

N_BOOTSTRAP = 10_000


@dataclass(frozen=True)
class Comparison:
    """How initialisation A does against B over n architectures (paper table 4, with its
    uncertainty).

    Attributes:
        n: architectures that both have, each the mean over its seeds.
        mean_difference: of A - B.
        low, high: 95 % bootstrap interval of the mean difference, architectures resampled.
        wins: fraction of architectures on which A is above B.
        average_gain: mean of A - B where A wins; NaN if nowhere.
        average_loss: mean of A - B where it does not; NaN if nowhere.
        p_value: Wilcoxon signed-rank test, two-sided; NaN for fewer than 2 architectures that
            differ.
    """

    n: int
    mean_difference: float
    low: float
    high: float
    wins: float
    average_gain: float
    average_loss: float
    p_value: float

    @property
    def p_digits(self) -> str | None:
        """`p_value` in two digits, however small; None of too few architectures."""
        return f"{self.p_value:.2g}" if math.isfinite(self.p_value) else None


def held(row: Row, steps: Sequence[int], column: str = "val_accuracy") -> list[float]:
    """A run's curve at `steps`; after its last entry that value stays, so that a run that diverged
    counts as what it ended with. NaN before its first entry and where a value is missing.
    """
    known = dict(zip(row["step"], row[column], strict=True))
    value, values = math.nan, []
    for step in sorted({*known, *steps}):
        if step in known:
            value = math.nan if known[step] is None else float(known[step])
        if step in steps:
            values.append(value)
    return values


def chosen_rows(rows: Iterable[Row]) -> list[Row]:
    """The rows without an error of the grid points that were chosen."""
    return [row for row in sound(rows) if row["selected"]]


def per_architecture(
    rows: Sequence[Row], init: str, value: str = "test_accuracy"
) -> dict[str, float]:
    """Mean of `value` over the seeds of each architecture, of the chosen grid points; rows with an
    error have none.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["ghn"] == init and row.get(value) is not None and row.get("selected", True):
            values[row["architecture"]].append(row[value])
    return {architecture: float(np.mean(found)) for architecture, found in values.items()}


def compare(rows: Sequence[Row], a: str, b: str) -> Comparison | None:
    """Test accuracy from initialisation `a` against `b` over the architectures that both have; None
    if there are none.
    """
    of_a, of_b = per_architecture(rows, a), per_architecture(rows, b)
    shared = [architecture for architecture in of_a if architecture in of_b]
    if not shared:
        return None
    return paired(
        np.array([of_a[name] for name in shared]), np.array([of_b[name] for name in shared])
    )


def paired(a_N: NDArray[np.float64], b_N: NDArray[np.float64]) -> Comparison:
    """The comparison of N paired values."""
    difference_N = a_N - b_N
    low, high = bootstrap_interval(difference_N)
    won = difference_N > 0
    return Comparison(
        n=len(difference_N),
        mean_difference=float(difference_N.mean()),
        low=low,
        high=high,
        wins=float(won.mean()),
        average_gain=float(difference_N[won].mean()) if won.any() else float("nan"),
        average_loss=float(difference_N[~won].mean()) if (~won).any() else float("nan"),
        p_value=_signed_rank(difference_N),
    )


def bootstrap_interval(values_N: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean; of a single value, that value twice."""
    from scipy.stats import bootstrap

    if len(values_N) < 2:
        return float(values_N[0]), float(values_N[0])
    interval = bootstrap(
        (values_N,),
        np.mean,
        n_resamples=N_BOOTSTRAP,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _signed_rank(difference_N: NDArray[np.float64]) -> float:
    from scipy.stats import wilcoxon

    if np.count_nonzero(difference_N) < 2:
        return float("nan")
    return float(wilcoxon(difference_N).pvalue)
