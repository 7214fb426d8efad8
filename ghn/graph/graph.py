"""The computational graph of a network, as arrays.

Shape legend: N nodes, E one-hop edges.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ghn.errors import InvalidGraphError
from ghn.graph.primitives import N_PRIMITIVES, Primitive

if TYPE_CHECKING:
    import networkx as nx

VIRTUAL_EDGE_CUTOFF = 50
"""Longest path that still makes a virtual edge (Knyazev et al., 2021; the GHN-3 recipe keeps it)."""

_UNREACHABLE = np.uint16(0x7FFF)  # far above any path length, and `+ 1` still fits 16 bits


@dataclass(frozen=True, eq=False)
class Graph:
    """A directed acyclic graph of operations; node 0 is the input and nodes are in topological order.

    Attributes:
        primitive: (N,) uint8, indices of `Primitive`.
        edges: (E, 2) int32, pairs (source, target) with source < target: the flow of the forward pass.
        shape: (N, 4) int32, the shape of the node's parameter (for pooling: of its window), padded on the right with
            zeros. A row of zeros means the node has none.
        param: (N,) the parameter's name in the network's state dict, "" where the node has none. The bias of a
            normalisation layer has no node: it is predicted from the node of the layer's weight.
        name: what the graph is of, for messages.
    """

    primitive: NDArray[np.uint8]
    edges: NDArray[np.int32]
    shape: NDArray[np.int32]
    param: Sequence[str]
    name: str = field(default="")

    @property
    def n_nodes(self) -> int:
        """Number of nodes N."""
        return len(self.primitive)

    def param_shape(self, node: int) -> tuple[int, ...]:
        """The shape of the parameter of `node` without padding; empty where it has none."""
        return tuple(int(size) for size in self.shape[node] if size)

    @cached_property
    def distance(self) -> NDArray[np.uint8]:
        """(N, N) uint8: entry (i, j) is the length of the shortest path from i to j, 0 if there is none of at most 50.

        One-hop edges are the ones; all longer entries are the virtual edges of GHN-2/3.
        """
        return shortest_paths(self.n_nodes, self.edges)

    def validate(self) -> None:
        """Checks types, ranges, the input node and topological order.

        Raises:
            InvalidGraphError: names the graph, the rule and the first node that breaks it.
        """
        n = self.n_nodes

        def fail(rule: str) -> None:
            raise InvalidGraphError(f"graph {self.name or '(unnamed)'}: {rule}")

        if n == 0:
            fail("has no nodes")
        if self.edges.ndim != 2 or self.edges.shape[1] != 2:
            fail(f"edges must have shape (E, 2), not {self.edges.shape}")
        if self.shape.shape != (n, 4) or len(self.param) != n:
            fail(f"{n} primitives, but {self.shape.shape[0]} shapes and {len(self.param)} parameter names")
        if (bad := np.flatnonzero(self.primitive >= N_PRIMITIVES)).size:
            fail(f"node {bad[0]} has primitive {self.primitive[bad[0]]}; there are {N_PRIMITIVES}")
        inputs = np.flatnonzero(self.primitive == Primitive.input)
        if inputs.tolist() != [0]:
            fail(f"must have one input, node 0; input nodes are {inputs.tolist()}")
        if self.edges.size:
            if self.edges.min() < 0 or self.edges.max() >= n:
                fail(f"an edge names a node outside 0..{n - 1}")
            if (bad := np.flatnonzero(self.edges[:, 0] >= self.edges[:, 1])).size:
                fail(f"edge {self.edges[bad[0]].tolist()} goes against topological order")

    def canonical_hash(self) -> str:
        """A hash that is equal for isomorphic graphs (primitive, parameter shape, edges), 32 hexadecimal digits.

        Colour refinement with the two directions kept apart, run until it has seen the whole graph. Names and node
        order do not enter. Two graphs that refinement cannot tell apart share a hash, so inequality is proof and
        equality is (for graphs as irregular as these) next to proof.
        """
        label = np.concatenate([self.primitive[:, None].astype(np.int64), self.shape.astype(np.int64)], axis=1)
        return refinement_hash(label, self.edges)

    def to_networkx(self, virtual_edges: bool = False) -> nx.DiGraph:
        """The graph with node attributes `primitive`, `param`, `shape` and edge attribute `distance`."""
        import networkx as nx

        graph: nx.DiGraph = nx.DiGraph(name=self.name)
        for node, primitive in enumerate(self.primitive):
            graph.add_node(
                node, primitive=Primitive(primitive).name, param=self.param[node], shape=self.param_shape(node)
            )
        if virtual_edges:
            source, target = np.nonzero(self.distance)
            graph.add_weighted_edges_from(
                zip(source.tolist(), target.tolist(), self.distance[source, target].tolist(), strict=True), "distance"
            )
        else:
            graph.add_edges_from(self.edges.tolist(), distance=1)
        return graph

    def statistics(self) -> dict[str, float]:
        """Node count, average degree and average shortest path of the undirected graph (paper table 3)."""
        degree = 2 * len(self.edges) / self.n_nodes
        return {"nodes": float(self.n_nodes), "degree": degree, "path": average_undirected_path(self)}

    def to_json_dict(self) -> dict[str, Any]:
        """The keys primitive, param, shape and edges, as lists (`ghn graph export`)."""
        return {
            "primitive": [Primitive(p).name for p in self.primitive],
            "param": list(self.param),
            "shape": [list(self.param_shape(node)) or None for node in range(self.n_nodes)],
            "edges": self.edges.tolist(),
        }


def shortest_paths(n: int, edges: NDArray[np.int32], cutoff: int = VIRTUAL_EDGE_CUTOFF) -> NDArray[np.uint8]:
    """Shortest path lengths of a DAG in topological order, in one pass over its nodes.

    The distances *to* node j are the minimum over its predecessors' plus one, so that each node costs one vectorised
    operation per incoming edge. Cost O(N * E), and no work for pairs that come later in the order.

    Args:
        n: number of nodes N.
        edges: (E, 2) pairs with source < target.
        cutoff: longer paths count as none. At most 255.

    Returns:
        (N, N) uint8, entry (i, j) the length from i to j, 0 for none.
    """
    order = np.argsort(edges[:, 1], kind="stable")
    sources = edges[order, 0].tolist()
    starts = np.searchsorted(edges[order, 1], np.arange(n + 1)).tolist()
    to = np.full((n, n), _UNREACHABLE, dtype=np.uint16)  # to[j, i]: from i to j
    to.flat[:: n + 1] = 0
    for node in range(n):
        begin, end = starts[node], starts[node + 1]
        if begin == end:
            continue
        first = sources[begin]
        row = to[node, :node]
        # Predecessor p only reaches back to nodes <= p; beyond it its row is "unreachable", which stays so.
        np.add(to[first, :node], 1, out=row)
        for predecessor in sources[begin + 1 : end]:
            np.minimum(row, to[predecessor, :node] + np.uint16(1), out=row)
        np.minimum(row, _UNREACHABLE, out=row)
    to[to > cutoff] = 0
    return np.ascontiguousarray(to.T).astype(np.uint8)


def average_undirected_path(graph: Graph) -> float:
    """Mean shortest path over ordered pairs of the undirected graph, by breadth-first search in SciPy.

    Raises:
        InvalidGraphError: the graph is not connected.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import shortest_path

    n = graph.n_nodes
    adjacency = csr_array((np.ones(len(graph.edges)), (graph.edges[:, 0], graph.edges[:, 1])), shape=(n, n))
    length = shortest_path(adjacency, directed=False, unweighted=True)
    if not np.isfinite(length).all():
        raise InvalidGraphError(f"graph {graph.name or '(unnamed)'} is not connected")
    return float(length.sum() / (n * (n - 1)))


def refinement_hash(label: NDArray[np.int64], edges: NDArray[np.int32]) -> str:
    """Hash of a labelled directed graph that does not depend on node order: colour refinement on 64-bit colours.

    Each round mixes into a node's colour the sums (hence order-free) of its mixed predecessors' and successors'
    colours; rounds go on until the number of distinct colours stops growing, so that the result has seen everything
    refinement can see.

    Args:
        label: (N, K) integers that a node starts from.
        edges: (E, 2) pairs (source, target).
    """
    colour = np.zeros(len(label), dtype=np.uint64)
    for column in label.T:
        colour = _mix(colour ^ _mix(column.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)))
    source, target = edges[:, 0], edges[:, 1]
    n_colours = 0
    rounds = 0
    while True:
        previous = np.zeros_like(colour)
        following = np.zeros_like(colour)
        np.add.at(previous, target, _mix(colour[source] ^ np.uint64(0xD6E8FEB86659FD93)))
        np.add.at(following, source, _mix(colour[target] ^ np.uint64(0xA5A3564E27F8866D)))
        colour = _mix(colour ^ _mix(previous + np.uint64(1)) ^ _mix(following + np.uint64(2)))
        rounds += 1
        distinct = len(np.unique(colour))
        if distinct <= n_colours:
            break
        n_colours = distinct
    digest = hashlib.blake2b(np.sort(colour).tobytes(), digest_size=16)
    digest.update(rounds.to_bytes(4, "little"))
    return digest.hexdigest()


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: a bijection of 64-bit words in which every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
