"""Computational graphs of neural networks as data: NumPy arrays, no PyTorch."""

from ghn.graph.graph import Graph
from ghn.graph.paths import VIRTUAL_EDGE_CUTOFF
from ghn.graph.primitives import N_PRIMITIVES, Primitive

__all__ = ["N_PRIMITIVES", "VIRTUAL_EDGE_CUTOFF", "Graph", "Primitive"]
