from .activations import activation_variances
from .diversity import PAPER_SHAPES, layer_distance, matched, mean_cosine_distance
from .ensemble import accuracy, ensemble_accuracy
from .gradients import gradient_norm
from .nas import SCORES, kendall_tau

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
