"""Labels as they are stored, checked before anything is trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ghn.errors import UnsupportedFormatError

MAX_CLASSES = 1_000_000
"""More than any data set has; a larger label without class names is no number of a class."""


def check_labels(values: Any, where: str, n_classes: int | None = None) -> NDArray[np.int64]:
    """(N,) labels as integers from 0 on.

    Args:
        values: an array, or something like it; whole numbers stored as floats are taken as such.
        where: the file for messages.
        n_classes: the number of class names, if there are any.

    Raises:
        UnsupportedFormatError: a label is null, negative, fractional, beyond the names, or no
            number; the message has its row.
    """
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.asarray(values, dtype=object)
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        what = "lists" if array.ndim != 1 or array.dtype == object else f"of type {array.dtype}"
        raise UnsupportedFormatError(
            f"{where}: labels are {what}; expected is one integer per image, its class's number"
        )
    array = array.astype(np.float64) if array.dtype == np.float16 else array  # limits are larger
    limit = MAX_CLASSES if n_classes is None else n_classes
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~((array >= 0) & (array < limit) & (np.floor(array) == array)))
    if len(wrong):
        row = int(wrong[0])
        raise UnsupportedFormatError(
            f"{where}, row {row}: label {array[row]!s} {_complaint(array[row], n_classes)}"
            f" ({len(wrong)} of {len(array)} labels)"
        )
    return array.astype(np.int64)


def numbered(labels: Sequence[NDArray[np.int64]]) -> tuple[str, ...]:
    """Names for classes without: their numbers, up to the largest label of all splits."""
    return tuple(str(k) for k in range(1 + max(int(part.max(initial=-1)) for part in labels)))


def _complaint(label: Any, n_classes: int | None) -> str:
    if label == -1:
        return "marks an image without a label; leave out this file or these rows"
    if np.isnan(label) or label != np.floor(label):
        return "is not the number of a class"
    if label < 0:
        return "is negative; classes count from 0"
    if n_classes is None:
        return f"is beyond {MAX_CLASSES} classes"
    return f"is beyond the {n_classes} class names"
