"""Measurements of predicted parameters: diversity, activations, ensembles, and scores that rank architectures."""

from ghn.analysis.activations import activation_variances
from ghn.analysis.diversity import PAPER_SHAPES, layer_distance, matched, mean_cosine_distance
from ghn.analysis.ensemble import accuracy, ensemble_accuracy
from ghn.analysis.gradients import gradient_norm
from ghn.analysis.nas import SCORES, kendall_tau

__all__ = [
    "PAPER_SHAPES",
    "SCORES",
    "accuracy",
    "activation_variances",
    "ensemble_accuracy",
    "gradient_norm",
    "kendall_tau",
    "layer_distance",
    "matched",
    "mean_cosine_distance",
]
