"""Computational graphs of neural networks: the input of a hypernetwork."""

from ghn.graph.batch import GraphBatch
from ghn.graph.distance import VIRTUAL_EDGE_CUTOFF
from ghn.graph.graph import Graph
from ghn.graph.primitives import N_PRIMITIVES, Primitive
from ghn.graph.trace import trace

__all__ = ["N_PRIMITIVES", "VIRTUAL_EDGE_CUTOFF", "Graph", "GraphBatch", "Primitive", "trace"]
