from .loading import DEFAULT_CACHE, load
from .sources import data_root, find_source
from .streaming import ImageStream, stream
from .tensors import ImageTensors

__all__ = [
    "DEFAULT_CACHE",
    "ImageStream",
    "ImageTensors",
    "data_root",
    "find_source",
    "load",
    "stream",
]
