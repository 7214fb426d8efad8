from .config import PAPER_LEARNING_RATES, FinetuneConfig
from .data import Images, stratified_order
from .engine import Curve, estimate_statistics, evaluate, finetune, logits, track_running_statistics
from .noise import break_symmetry, correlation_std

__all__ = [
    "PAPER_LEARNING_RATES",
    "Curve",
    "FinetuneConfig",
    "Images",
    "break_symmetry",
    "correlation_std",
    "estimate_statistics",
    "evaluate",
    "finetune",
    "logits",
    "stratified_order",
    "track_running_statistics",
]
