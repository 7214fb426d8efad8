"""Graph hypernetworks GHN-1, GHN-2 and GHN-3."""

from ghn.models.config import VARIANTS, GHNConfig
from ghn.models.hypernetwork import GHN, Prediction

__all__ = ["GHN", "VARIANTS", "GHNConfig", "Prediction"]
