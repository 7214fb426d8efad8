"""Images that come with a library."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.images.sources.table import Reader


@dataclass(frozen=True)
class Digits:
    """The digits of scikit-learn: 1,797 images of 8 x 8 pixels, 17 grey levels, 10 classes; no
    file, no network.
    """

    @cached_property
    def _data(self) -> Any:
        from sklearn.datasets import load_digits

        return load_digits()

    @property
    def classes(self) -> Sequence[str]:
        """The names "0" to "9"."""
        return tuple("0123456789")

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(1797,) labels."""
        return np.asarray(self._data.target, dtype=np.int64)

    @property
    def blocks(self) -> Sequence[tuple[int, int]]:
        """All at once."""
        return [(0, len(self.labels))]

    @property
    def files(self) -> Sequence[Path]:
        """None."""
        return []

    @cached_property
    def digest(self) -> str:
        """SHA-256 of pixels and labels."""
        return hashlib.sha256(self._data.images.tobytes() + self.labels.tobytes()).hexdigest()

    def open(self, block: int) -> Reader:
        """Grey levels are stretched to 0..255."""

        def read(row: int) -> Image.Image:
            pixels = np.rint(self._data.images[row] * (255 / 16)).astype(np.uint8)
            return Image.fromarray(pixels).convert("RGB")

        return read
