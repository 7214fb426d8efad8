"""Training networks from an initialisation: the engine, its data, and the noise that breaks symmetry."""

from ghn.finetune.data import Images, stratified_order
from ghn.finetune.engine import (
    PAPER_LEARNING_RATES,
    Curve,
    FinetuneConfig,
    estimate_statistics,
    evaluate,
    finetune,
    logits,
    track_running_statistics,
)
from ghn.finetune.noise import break_symmetry, correlation_std

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
