"""DeepNets-1M: a million architectures as computational graphs and as networks (Knyazev et al., 2021)."""

from datasets.deepnets.builder import build_graph, scaled_graph
from datasets.deepnets.generate import GenerateConfig, generate_split
from datasets.deepnets.loader import MetaBatch, MetaBatchConfig, MetaBatches, meta_batches
from datasets.deepnets.network import Network
from datasets.deepnets.rules import EVALUATION_SPLITS, PUBLISHED, SplitRules
from datasets.deepnets.scaling import Scaling
from datasets.deepnets.search_space import OPERATIONS, Architecture, Genotype
from datasets.deepnets.store import Split, open_split

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
