from .config import FinetuneConfig
from .curve import Curve
from .data import stratified_order
from .engine import finetune
from .evaluation import (
    estimate_statistics,
    evaluate,
    lacks_statistics,
    logits,
    track_running_statistics,
)
from .noise import break_symmetry, correlation_std

__all__ = [
    "Curve",
    "FinetuneConfig",
    "break_symmetry",
    "correlation_std",
    "estimate_statistics",
    "evaluate",
    "finetune",
    "lacks_statistics",
    "logits",
    "stratified_order",
    "track_running_statistics",
]
