"""Many graphs in a few flat arrays: the form in which shards travel and the store keeps them.

Edges are sorted by target, so a node's incoming edges are its in-degree and, for each, how far back
its source is.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ghn.errors import InvalidGraphError


@dataclass(frozen=True, eq=False)
class GraphPack:
    """G graphs with N nodes and E edges in total.

    Attributes:
        n_nodes: (G,) uint16.
        n_edges: (G,) uint16.
        primitive: (N,) uint8.
        in_degree: (N,) uint8.
        back: (E,) uint16, target minus source.
    """

    n_nodes: NDArray[np.uint16]
    n_edges: NDArray[np.uint16]
    primitive: NDArray[np.uint8]
    in_degree: NDArray[np.uint8]
    back: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.n_nodes)

    @staticmethod
    def names() -> tuple[str, ...]:
        """Names of the arrays."""
        return tuple(f.name for f in fields(GraphPack))

    def checksums(self, code: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """(G,) CRC-32 of each graph's nodes and edges and of its architecture's bytes (G, K)."""
        node = offsets(self.n_nodes).tolist()
        edge = (2 * offsets(self.n_edges)).tolist()
        rows, primitive, in_degree = (
            code.tobytes(),
            self.primitive.tobytes(),
            self.in_degree.tobytes(),
        )
        back, k, crc32 = self.back.astype("<u2").tobytes(), code.shape[1], zlib.crc32
        checksums = np.empty(len(self), dtype=np.uint32)
        for i in range(len(self)):
            begin, end = node[i], node[i + 1]
            crc = crc32(primitive[begin:end], crc32(rows[i * k : (i + 1) * k]))
            checksums[i] = crc32(back[edge[i] : edge[i + 1]], crc32(in_degree[begin:end], crc))
        return checksums

    def select(self, keep: NDArray[np.bool_]) -> GraphPack:
        """Some of the graphs."""
        nodes, edges = np.repeat(keep, self.n_nodes), np.repeat(keep, self.n_edges)
        return GraphPack(
            self.n_nodes[keep],
            self.n_edges[keep],
            self.primitive[nodes],
            self.in_degree[nodes],
            self.back[edges],
        )


def offsets(sizes: NDArray[np.uint16] | NDArray[np.int64]) -> NDArray[np.int64]:
    """(G + 1,) where each graph begins, and the total."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def unpack_edges(in_degree: NDArray[np.uint8], back: NDArray[np.uint16]) -> NDArray[np.int32]:
    """(E, 2) edges of one graph, or of several with nodes numbered through.

    Raises:
        InvalidGraphError: in-degrees and edges disagree in number.
    """
    target = np.repeat(np.arange(len(in_degree), dtype=np.int32), in_degree)
    if len(target) != len(back):
        raise InvalidGraphError(
            f"in-degrees add up to {len(target)}, but there are {len(back)} edges"
        )
    return np.stack([target - back.astype(np.int32), target], axis=1)
