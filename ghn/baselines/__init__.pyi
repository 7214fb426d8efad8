from ._fixup import ScaleAndShift, fixup, without_norm
from ._gradinit import gradinit
from ._metainit import gradient_quotient, metainit
from ._orthogonal import orthogonal, orthogonal_like
from .config import GradInitConfig, MetaInitConfig

__all__ = [
    "GradInitConfig",
    "MetaInitConfig",
    "ScaleAndShift",
    "fixup",
    "gradient_quotient",
    "gradinit",
    "metainit",
    "orthogonal",
    "orthogonal_like",
    "without_norm",
]
