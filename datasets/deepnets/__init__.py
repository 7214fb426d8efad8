"""DeepNets-1M: a million architectures as computational graphs and as networks (Knyazev et al., 2021)."""

from datasets.deepnets.builder import build_graph, scaled_graph
from datasets.deepnets.network import Network
from datasets.deepnets.scaling import Scaling
from datasets.deepnets.search_space import OPERATIONS, Architecture, Genotype

__all__ = ["OPERATIONS", "Architecture", "Genotype", "Network", "Scaling", "build_graph", "scaled_graph"]
