from .config import VARIANTS, GHNConfig
from .hypernetwork import GHN, Prediction

__all__ = [
    "GHN",
    "VARIANTS",
    "GHNConfig",
    "Prediction",
]
