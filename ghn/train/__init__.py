"""Training of a hypernetwork on many architectures at once (section 5 of the paper)."""

from ghn.train.callbacks import Callback, ProgressBar, StepRecord
from ghn.train.config import TrainConfig
from ghn.train.distributed import Ranks, ranks
from ghn.train.loop import DivergedError, TrainResult, train
from ghn.train.step import MetaBatch, meta_batch_losses

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
