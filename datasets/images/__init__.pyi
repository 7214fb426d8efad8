from .loading import load
from .sources.find import (
    MissingImagesError,
    data_root,
    find_source,
    source_digest,
    source_files,
)
from .streaming import ImageStream, stream
from .tensors import ImageTensors

__all__ = [
    "ImageStream",
    "ImageTensors",
    "MissingImagesError",
    "data_root",
    "find_source",
    "load",
    "source_digest",
    "source_files",
    "stream",
]
