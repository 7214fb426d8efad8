"""Prediction of parameters for a network that exists: in place, as a state dict, with a report."""

from ghn.predict.batchnorm import batch_statistics, reestimate_batch_norm
from ghn.predict.inplace import Frozen, StateDict, initialize, predict_state_dict
from ghn.predict.report import Kept, Report

__all__ = [
    "Frozen",
    "Kept",
    "Report",
    "StateDict",
    "batch_statistics",
    "initialize",
    "predict_state_dict",
    "reestimate_batch_norm",
]
