"""Which images a network is right on, as text in a column of a row: a bit per image, base64."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flows.rows.schema import Row
from ghn.errors import DamagedFileError


def pack(right: NDArray[np.bool_]) -> str:
    """The text of `right` (images,)."""
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def unpack(text: str, images: int) -> NDArray[np.bool_]:
    """The answers (images,) that `pack` made the text of.

    Raises:
        DamagedFileError: the text is no such text, or one of another number of images.
    """
    try:
        packed = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except (binascii.Error, ValueError) as error:
        raise DamagedFileError(f"answers per image cannot be read: {error}") from None
    if len(packed) != (images + 7) // 8:
        raise DamagedFileError(f"answers of {len(packed)} bytes do not fit {images} images")
    return np.unpackbits(packed, count=images).astype(bool)


def matrix(rows: Sequence[Row], column: str | None) -> NDArray[np.bool_]:
    """Answers (A, I) of a column of A rows; without one, which images were seen."""
    images = max(row["images"] or 0 for row in rows)
    answers = np.zeros((len(rows), images), bool)
    for index, row in enumerate(rows):
        if row["error"] is None:
            n = row["images"]
            answers[index, :n] = True if column is None else unpack(row[column], n)
    return answers
