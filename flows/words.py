"""Numbers and times as pages, tables, tags and messages write them."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def counted(n: int, noun: str) -> str:
    """`1 seed`, `3 seeds`, `1,000 seeds`."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def now() -> str:
    """This moment in UTC, to the second: `2026-01-31T23:59:59Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def percent(value: float, decimals: int = 1) -> str:
    """A fraction as text."""
    return f"{100 * value:.{decimals}f}\N{NO-BREAK SPACE}%"


def plus_minus(value: float, spread: float, decimals: int = 1) -> str:
    """A fraction and its spread as text."""
    return f"{100 * value:.{decimals}f} ± {percent(spread, decimals)}"


def spread(values: NDArray[np.float64], decimals: int = 1) -> str:
    """Mean and standard deviation of fractions as text; one value has none."""
    if values.size == 1:
        return percent(values[0], decimals)
    return plus_minus(values.mean(), values.std(), decimals)


def standard_error(accuracy: float, images: int) -> float:
    """That of an accuracy of `images` images. A right and a wrong answer are counted in, so that
    none right of sixteen is no certainty.
    """
    likely = (accuracy * images + 1) / (images + 2)
    return math.sqrt(likely * (1 - likely) / (images + 2))


def measured(accuracy: float, images: int) -> str:
    """An accuracy with its standard error, of `images` images, as text."""
    return plus_minus(accuracy, standard_error(accuracy, images))
