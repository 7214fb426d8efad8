"""Computational graphs of neural networks as data: NumPy arrays, no PyTorch."""

from ghn.graph.graph import Graph
from ghn.graph.interchange import from_json_dict, from_networkx, to_dot
from ghn.graph.paths import VIRTUAL_EDGE_CUTOFF
from ghn.graph.primitives import N_PRIMITIVES, Primitive

__all__ = [
    "N_PRIMITIVES",
    "VIRTUAL_EDGE_CUTOFF",
    "Graph",
    "Primitive",
    "from_json_dict",
    "from_networkx",
    "to_dot",
]
