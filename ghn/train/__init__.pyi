from .callbacks import Callback, ProgressBar, StepRecord
from .config import TrainConfig
from .distributed import Ranks, ranks
from .loop import DivergedError, TrainResult, train
from .step import MetaBatch, meta_batch_losses

__all__ = [
    "Callback",
    "DivergedError",
    "MetaBatch",
    "ProgressBar",
    "Ranks",
    "StepRecord",
    "TrainConfig",
    "TrainResult",
    "meta_batch_losses",
    "ranks",
    "train",
]
