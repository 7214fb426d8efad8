from .generation.config import GenerateConfig
from .generation.generate import generate_split
from .graphs.builder import build_graph, scaled_graph
from .graphs.split import Split, open_split
from .loader import MetaBatch, MetaBatches, meta_batches
from .networks.network import Network
from .space.architecture import OPERATIONS, Architecture, Genotype
from .space.rules import EVALUATION_SPLITS, PUBLISHED, SplitRules
from .space.scaling import Scaling
from .space.widths import MetaBatchConfig

__all__ = [
    "EVALUATION_SPLITS",
    "OPERATIONS",
    "PUBLISHED",
    "Architecture",
    "GenerateConfig",
    "Genotype",
    "MetaBatch",
    "MetaBatchConfig",
    "MetaBatches",
    "Network",
    "Scaling",
    "Split",
    "SplitRules",
    "build_graph",
    "generate_split",
    "meta_batches",
    "open_split",
    "scaled_graph",
]
