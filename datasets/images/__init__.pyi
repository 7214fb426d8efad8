from .file import is_current
from .loading import load, recipe, split_file
from .sources.find import (
    MissingImagesError,
    data_root,
    find_source,
    source_digest,
)
from .streaming import ImageStream, stream
from .tensors import ImageTensors

__all__ = [
    "ImageStream",
    "ImageTensors",
    "MissingImagesError",
    "data_root",
    "find_source",
    "is_current",
    "load",
    "recipe",
    "source_digest",
    "split_file",
    "stream",
]
