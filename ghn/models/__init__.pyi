from .classes import for_classes
from .config import VARIANTS, GHNConfig
from .hypernetwork import GHN
from .prediction import Prediction
from .widening import widened

__all__ = [
    "GHN",
    "VARIANTS",
    "GHNConfig",
    "Prediction",
    "for_classes",
    "widened",
]
