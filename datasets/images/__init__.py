"""Image classification data: decoded once into uint8 tensors, or streamed where that does not fit into memory."""

import os

from datasets.images.loading import DEFAULT_CACHE, load, select
from datasets.images.sources import data_root, find_source
from datasets.images.stream import ImageStream
from datasets.images.tensors import ImageTensors

__all__ = ["DEFAULT_CACHE", "ImageStream", "ImageTensors", "data_root", "find_source", "load", "stream"]


def stream(
    name: str,
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    image_size: int = 224,
    *,
    val_fraction: float = 0.02,
    seed: int = 0,
    workers: int = 0,
    lanes: int = 8,
) -> ImageStream:
    """A split of a data set as an `ImageStream`; arguments as of `load`.

    Raises:
        ConfigError: no such data set or split.
    """
    table, rows = select(find_source(name, root), split, val_fraction, seed=seed)
    return ImageStream(table, rows, image_size, name, workers, lanes)
