"""The computational graph of a network, as arrays.

Shape legend: N nodes, E one-hop edges.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ghn.errors import InvalidGraphError
from ghn.graph.paths import shortest_paths
from ghn.graph.primitives import N_PRIMITIVES, Primitive

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Graph:
    """A directed acyclic graph of operations; node 0 is the input and nodes are in topological
    order.

    Attributes:
        primitive: (N,) uint8, indices of `Primitive`.
        edges: (E, 2) int32, pairs (source, target) with source < target: the flow of the forward
            pass.
        shape: (N, 4) int32, the shape of the node's parameter (for pooling: of its window), padded
            on the right with zeros. A row of zeros means the node has none.
        param: (N,) the parameter's name in the network's state dict, "" where the node has none.
            The bias of a normalisation layer has no node: it is predicted from the node of the
            layer's weight.
        name: what the graph is of, for messages.
        columns: where channels are shuffled on the way to a dense layer, for its weight, by name,
            the channel of the layer before that each column reads (`GHNConfig.shuffled`).
    """

    primitive: NDArray[np.uint8]
    edges: NDArray[np.int32]
    shape: NDArray[np.int32]
    param: Sequence[str]
    name: str = field(default="")
    columns: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)

    @property
    def n_nodes(self) -> int:
        """Number of nodes N."""
        return len(self.primitive)

    def param_shape(self, node: int) -> tuple[int, ...]:
        """The shape of the parameter of `node` without padding; empty where it has none."""
        return tuple(int(size) for size in self.shape[node] if size)

    @property
    def head(self) -> tuple[int, ...]:
        """The nodes of the last layer, whose output channels are classes.

        That is a weight of two or more dimensions which is the last node, or the last but one
        before its bias. Empty where a network ends otherwise.
        """
        n = self.n_nodes
        if n > 1 and self.primitive[n - 1] == Primitive.bias and self._is_matrix(n - 2):
            return (n - 2, n - 1)
        return (n - 1,) if self._is_matrix(n - 1) else ()

    def _is_matrix(self, node: int) -> bool:
        sizes = self.shape[node].tolist()
        named = bool(self.param[node]) and self.primitive[node] == Primitive.conv
        return named and sizes[1] > 0 and max(sizes[2:]) <= 1

    @cached_property
    def distance(self) -> NDArray[np.uint8]:
        """(N, N) uint8: entry (i, j) is the length of the shortest path from i to j, 0 if there is
        none of at most 50.

        One-hop edges are the ones; all longer entries are the virtual edges of GHN-2/3.
        """
        return shortest_paths(self.n_nodes, self.edges)

    def validate(self) -> None:
        """Checks types, ranges, the input node, topological order and that no edge is there twice.

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
            fail(
                f"{n} primitives, but {self.shape.shape[0]} shapes and {len(self.param)} parameter"
                " names"
            )
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
            pairs = self.edges[:, 0].astype(np.int64) * n + self.edges[:, 1]
            _, first, counts = np.unique(pairs, return_index=True, return_counts=True)
            if (bad := first[counts > 1]).size:
                fail(f"edge {self.edges[bad[0]].tolist()} is there more than once; keep one")
        sizes = {name: int(row[1]) for name, row in zip(self.param, self.shape, strict=True)}
        for name, read in self.columns.items():
            if sizes.get(name) != len(read) or min(read, default=0) < 0:
                fail(f"columns of {name!r} must be {sizes.get(name, 0)} channels, from 0")

    def canonical_hash(self) -> str:
        """A hash that is equal for isomorphic graphs (primitive, parameter shape, edges), 32
        hexadecimal digits.

        Names and node order do not enter; see `canonical_hashes` for what does. Graphs with
        different hashes are different; graphs with equal ones are (for graphs as irregular as
        these) next to surely isomorphic.
        """
        label = np.concatenate([self.primitive[:, None].astype(np.int32), self.shape], axis=1)
        first, second = canonical_hashes(label, self.edges, [self.n_nodes])[0].tolist()
        return f"{first:016x}{second:016x}"

    def to_networkx(self, virtual_edges: bool = False) -> nx.DiGraph:
        """The graph with node attributes `primitive`, `param`, `shape` and edge attribute
        `distance`; nodes that read shuffled channels have `columns`, too.
        """
        import networkx as nx

        graph: nx.DiGraph = nx.DiGraph(name=self.name)
        for node, primitive in enumerate(self.primitive):
            graph.add_node(
                node,
                primitive=Primitive(primitive).name,
                param=self.param[node],
                shape=self.param_shape(node),
            )
            if (read := self.columns.get(self.param[node])) is not None:
                graph.nodes[node]["columns"] = read.tolist()
        if virtual_edges:
            source, target = np.nonzero(self.distance)
            graph.add_weighted_edges_from(
                zip(
                    source.tolist(),
                    target.tolist(),
                    self.distance[source, target].tolist(),
                    strict=True,
                ),
                "distance",
            )
        else:
            graph.add_edges_from(self.edges.tolist(), distance=1)
        return graph

    def statistics(self) -> dict[str, float]:
        """Node count, average degree and average shortest path of the undirected graph (paper table
        3).
        """
        degree = 2 * len(self.edges) / self.n_nodes
        return {
            "nodes": float(self.n_nodes),
            "degree": degree,
            "path": average_undirected_path(self),
        }

    def draw(self, path: str | os.PathLike[str] | None = None, **options: Any) -> Figure:
        """A picture of the graph, written to `path` if given (`ghn.graph.drawing.draw`, which has
        the options).
        """
        from ghn.graph.drawing import draw

        return draw(self, path, **options)

    def to_json_dict(self) -> dict[str, Any]:
        """The keys primitive, param, shape and edges, as lists, and columns where channels are
        shuffled (`ghn trace NAME --out FILE.json`).
        """
        columns = {name: read.tolist() for name, read in self.columns.items()}
        return {
            "primitive": [Primitive(p).name for p in self.primitive],
            "param": list(self.param),
            "shape": [list(self.param_shape(node)) or None for node in range(self.n_nodes)],
            "edges": self.edges.tolist(),
            **({"columns": columns} if columns else {}),
        }


def average_undirected_path(graph: Graph) -> float:
    """Mean shortest path over ordered pairs of the undirected graph, by breadth-first search in
    SciPy; 0 for a single node.

    Raises:
        InvalidGraphError: the graph is not connected.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import shortest_path

    n = graph.n_nodes
    adjacency = csr_array(
        (np.ones(len(graph.edges)), (graph.edges[:, 0], graph.edges[:, 1])), shape=(n, n)
    )
    length = shortest_path(adjacency, directed=False, unweighted=True)
    if not np.isfinite(length).all():
        raise InvalidGraphError(f"graph {graph.name or '(unnamed)'} is not connected")
    return float(length.sum() / max(n * (n - 1), 1))


def canonical_hashes(
    label: NDArray[np.int32],
    edges: NDArray[np.int32] | NDArray[np.int64],
    sizes: Sequence[int] | NDArray[np.int64],
) -> NDArray[np.uint64]:
    """Hashes of many labelled directed acyclic graphs at once, which do not depend on the order of
    their nodes.

    A node's colour takes in, going forward through the graph, the multiset of its predecessors'
    colours, and going backward that of its successors': after both passes it has seen everything
    before and behind it. The two passes are repeated once from the combined colours. The i-th nodes
    of all graphs are coloured together.

    Args:
        label: (N, K) integers that the nodes of all graphs start from, one graph after another.
        edges: (E, 2) pairs (source, target), source < target, numbered through over all graphs.
        sizes: (G,) number of nodes of each graph, none of them 0.

    Returns:
        (G, 2) uint64, 128 bits per graph.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    place = np.arange(len(label)) - np.repeat(starts, sizes)
    from_end = np.repeat(sizes, sizes) - 1 - place
    source, target = edges[:, 0].astype(np.int64), edges[:, 1].astype(np.int64)
    passes = (_Sweep(source, target, place), _Sweep(target, source, from_end))
    colour = np.zeros(len(label), dtype=np.uint64)
    for column in label.T:
        colour = _mix(colour ^ _mix(column.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)))
    for _ in range(2):
        forward, backward = (sweep.propagate(colour) for sweep in passes)
        colour = _mix(colour ^ _mix(forward + np.uint64(1)) ^ _mix(_mix(backward + np.uint64(2))))
    halves = [
        np.add.reduceat(_mix(colour ^ np.uint64(salt)), starts) for salt in (0, 0xD6E8FEB86659FD93)
    ]
    return np.stack(halves, axis=1)


class _Sweep:
    """Edges grouped by the place in its graph of the node they lead to, and within it by that node.

    Args:
        source: (E,) where edges come from; its place is always before the target's.
        target: (E,) where they lead to.
        place: (N,) place of each node in the order of the sweep.
    """

    def __init__(
        self, source: NDArray[np.int64], target: NDArray[np.int64], place: NDArray[np.int64]
    ) -> None:
        order = np.argsort(place[target] * len(place) + target, kind="stable")
        self.source, target = source[order], target[order]
        # the first edge into each node
        self.first = np.flatnonzero(np.diff(target, prepend=-1))
        self.node = target[self.first]
        self.groups = np.flatnonzero(np.diff(place[self.node], prepend=-1, append=-1)).tolist()

    def propagate(self, colour: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Colours that have taken in those of all nodes before."""
        colour = _mix(colour)
        mixed = _mix(colour)
        first = [*self.first.tolist(), len(self.source)]
        for begin, end in pairwise(self.groups):
            edges = slice(first[begin], first[end])
            gathered = np.add.reduceat(
                mixed[self.source[edges]], self.first[begin:end] - first[begin]
            )
            node = self.node[begin:end]
            colour[node] = _mix(colour[node] + gathered)
            mixed[node] = _mix(colour[node])
        return colour


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: a bijection of 64-bit words in which every input bit reaches
    every output bit.
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
