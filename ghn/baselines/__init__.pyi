from ._fixup import ScaleAndShift, fixup, without_norm
from ._gradinit import gradinit
from ._metainit import gradient_quotient, metainit
from ._nio import gradient_cosine, nio
from ._orthogonal import orthogonal, orthogonal_like, orthogonalise
from ._selection import read_state_dict, weight_selection
from .config import GradInitConfig, MetaInitConfig, NIOConfig

__all__ = [
    "GradInitConfig",
    "MetaInitConfig",
    "NIOConfig",
    "ScaleAndShift",
    "fixup",
    "gradient_cosine",
    "gradient_quotient",
    "gradinit",
    "metainit",
    "nio",
    "orthogonal",
    "orthogonal_like",
    "orthogonalise",
    "read_state_dict",
    "weight_selection",
    "without_norm",
]
