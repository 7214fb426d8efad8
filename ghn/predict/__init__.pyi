from .batchnorm import batch_statistics, reestimate_batch_norm
from .inplace import Frozen, StateDict, predict_in_place, predict_state_dict
from .report import Kept, Report

__all__ = [
    "Frozen",
    "Kept",
    "Report",
    "StateDict",
    "batch_statistics",
    "predict_in_place",
    "predict_state_dict",
    "reestimate_batch_norm",
]
