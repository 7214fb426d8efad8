from .callbacks import Callback, StepRecord, Training
from .config import TrainConfig
from .data import Phase
from .distributed import Ranks, ranks
from .loop import train
from .progress import ProgressBar
from .result import TrainResult
from .step import MetaBatch, meta_batch_losses
from .tally import DivergedError

__all__ = [
    "Callback",
    "DivergedError",
    "MetaBatch",
    "Phase",
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
