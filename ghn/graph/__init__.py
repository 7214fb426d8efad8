"""Computational graphs of neural networks: the input of a hypernetwork."""

from ghn.graph.batch import GraphBatch
from ghn.graph.graph import VIRTUAL_EDGE_CUTOFF, Graph
from ghn.graph.primitives import N_PRIMITIVES, Primitive
from ghn.graph.trace import trace

__all__ = ["N_PRIMITIVES", "VIRTUAL_EDGE_CUTOFF", "Graph", "GraphBatch", "Primitive", "trace"]
