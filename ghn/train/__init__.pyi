from .callbacks import Callback, StepRecord, Training
from .config import TrainConfig
from .distributed import Ranks, ranks
from .loop import DivergedError, TrainResult, train
from .progress import ProgressBar
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
    "Training",
    "meta_batch_losses",
    "ranks",
    "train",
]
