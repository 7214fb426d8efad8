from .batchnorm import batch_statistics, reestimate_batch_norm
from .inplace import Frozen, StateDict, initialize, predict_state_dict
from .report import Kept, Report

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
