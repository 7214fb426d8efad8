"""Which of two sets of networks is right more often, by more than the noise.

Accuracies of networks on the same images share their luck: an image that is hard is hard for all of
them. The noise of a mean over networks is therefore that of the networks *and* of the images, and a
two-way bootstrap draws both anew (Owen 2007, "The pigeonhole bootstrap", whose variance is never
too small on average). The factors of Student's t and of small samples make up for few images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Bools = NDArray[np.bool_]

LEVEL = 0.975
"""A difference counts if the lower end of its 95 % interval is above 0."""

DRAWS = 500
MIN_ARCHITECTURES = 8
MIN_IMAGES = 8
"""Fewer than these decide nothing."""

_CHUNK = 2**24
"""Numbers that are drawn at a time: bounds memory to some hundred megabytes."""


@dataclass(frozen=True)
class Comparison:
    """Paired over architectures and images.

    Attributes:
        architectures: how many were compared.
        images: on how many images, at most.
        challenger: mean accuracy over them.
        champion: likewise, of what it is compared with.
        difference: mean of the differences.
        noise: what the difference must exceed.
    """

    architectures: int
    images: int
    challenger: float
    champion: float
    difference: float
    noise: float

    @property
    def enough(self) -> bool:
        """Whether there are enough architectures and images to decide."""
        return self.architectures >= MIN_ARCHITECTURES and self.images >= MIN_IMAGES

    @property
    def better(self) -> bool:
        """Whether the challenger is better by more than the noise."""
        return self.enough and self.difference > self.noise

    @property
    def worse(self) -> bool:
        """Whether the challenger is worse by more than the noise, however few there are."""
        return self.difference < -self.noise


def compare(challenger: Bools, champion: Bools, seen: Bools) -> Comparison:
    """Compares two matrices of right answers (A, I) of the same architectures on the same images.

    Args:
        challenger: whether architecture a is right on image i.
        champion: likewise.
        seen: whether a was measured on i; what the others say of the rest is ignored.
    """
    used = np.ix_(seen.any(axis=1), seen.any(axis=0))
    a, b, seen = ((x & seen)[used] for x in (challenger, champion, seen))
    architectures, images = seen.shape
    if min(seen.shape) < 2:
        return Comparison(architectures, images, 0.0, 0.0, 0.0, math.inf)
    first, second = (float((x.sum(axis=1) / seen.sum(axis=1)).mean()) for x in (a, b))
    n = min(seen.shape)
    noise = float(student.ppf(LEVEL, n - 1)) * math.sqrt(n / (n - 1))
    noise *= standard_error(a.astype(np.float32) - b, seen)
    return Comparison(architectures, images, first, second, first - second, noise)


def standard_error(values: NDArray[np.float32], seen: Bools, draws: int = DRAWS) -> float:
    """Standard error of the mean over rows of the means over their columns that are `seen`.

    A two-way bootstrap: each draw takes rows and columns with replacement. A row that has none of
    the columns of a draw is left out of it.

    Args:
        values: (A, I), zero where not seen.
        seen: (A, I).
        draws: how many.
    """
    rng = np.random.default_rng(0)  # so that a decision can be repeated
    rows, columns = values.shape
    means: list[NDArray[np.float64]] = []
    step = max(1, _CHUNK // (rows + columns))
    counts = seen.astype(np.float32).T
    for begin in range(0, draws, step):
        size = min(step, draws - begin)
        column = rng.multinomial(columns, np.full(columns, 1 / columns), size).astype(np.float32)
        row = rng.multinomial(rows, np.full(rows, 1 / rows), size)
        total = column @ counts  # (draws, A)
        weight = row * (total > 0)
        mean = column @ values.T / np.maximum(total, 1)
        means.append((weight * mean).sum(axis=1) / np.maximum(weight.sum(axis=1), 1))
    return float(np.concatenate(means).std(ddof=1))
