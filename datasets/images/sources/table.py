"""What a stored split is to its readers: encoded images and labels, in blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Reader = Callable[[int], Image.Image]
"""From a row of the table, in the block that was opened, to its image: RGB, 8 bits."""


class Table(Protocol):
    """Encoded images with labels, in blocks that are cheap to read as a whole."""

    @property
    def classes(self) -> Sequence[str]:
        """The name of each label, the same in all splits of the data set."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels, each an index of `classes`."""

    @property
    def blocks(self) -> Sequence[tuple[int, int]]:
        """Ranges [begin, end) of rows that are stored together, in order."""

    @property
    def files(self) -> Sequence[Path]:
        """The files that the table is read from; none if it comes with a library."""

    @property
    def digest(self) -> str:
        """SHA-256 of everything that is read: other content, another digest."""

    def open(self, block: int) -> Reader:
        """Reads a block once; its images are decoded one by one, by any thread."""
