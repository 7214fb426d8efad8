from .checkpoint import from_pretrained, load_checkpoint, save_checkpoint
from .errors import GHNError
from .graph import Graph, Primitive
from .init import init_
from .initialize import load_initialized
from .models import GHN, VARIANTS, GHNConfig
from .models.batch import GraphBatch
from .models.coverage import coverage
from .predict import Report, batch_statistics, reestimate_batch_norm
from .tracing.run import trace

__all__ = [
    "GHN",
    "VARIANTS",
    "GHNConfig",
    "GHNError",
    "Graph",
    "GraphBatch",
    "Primitive",
    "Report",
    "batch_statistics",
    "coverage",
    "from_pretrained",
    "init_",
    "load_checkpoint",
    "load_initialized",
    "reestimate_batch_norm",
    "save_checkpoint",
    "trace",
]
