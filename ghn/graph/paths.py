"""Lengths of shortest paths in a computational graph: its virtual edges.

Shape legend: N nodes, E one-hop edges.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ghn.errors import InvalidGraphError

VIRTUAL_EDGE_CUTOFF = 50
"""Longest path that still makes a virtual edge (Knyazev et al., 2021; the GHN-3 recipe keeps it).
"""

_MAX_NODES = 0x3FFF
_FAR = 0x100  # beyond any cutoff; with the length of a path on top it still fits 16 bits


def shortest_paths(
    n: int, edges: NDArray[np.int32], cutoff: int = VIRTUAL_EDGE_CUTOFF
) -> NDArray[np.uint8]:
    """Shortest path lengths of a DAG in topological order, in one pass over its nodes from the last
    to the first.

    The row of a node is that of the nearest of the nodes behind it, plus one. Rows are kept less
    the node's height, its distance to the nearest end of the graph, as reduced costs in the
    algorithm of Johnson: then a node with a single successor has the very row of that successor,
    itself added. Networks are mostly chains, and a chain shares one row; arithmetic remains where
    paths part.

    Args:
        n: number of nodes N.
        edges: (E, 2) pairs with source < target.
        cutoff: longer paths count as none. At most 255.

    Returns:
        (N, N) uint8, entry (i, j) the length from i to j, 0 for none.

    Raises:
        InvalidGraphError: the graph has more than 16,383 nodes.
    """
    if n > _MAX_NODES:
        raise InvalidGraphError(f"a graph of {n} nodes is too large for its distances")
    if n == 0:
        return np.zeros((0, 0), dtype=np.uint8)
    source, target = edges.T
    n_before = np.bincount(target, minlength=n).tolist()
    n_behind = np.bincount(source, minlength=n).tolist()
    behind = target[np.argsort(source, kind="stable")].tolist()  # taken from the end, node by node
    steps = np.arange(n, dtype=np.int16)
    nowhere = np.full(n, _FAR, dtype=np.int16)
    rows, heights = [nowhere] * n, [0] * n
    for i in range(n - 1, -1, -1):
        count = n_behind[i]
        if count == 0:
            row, height = nowhere.copy(), 0
        else:
            j = behind.pop()
            row, height = rows[j], heights[j]
            for _ in range(count - 1):
                j = behind.pop()
                other, higher = rows[j], heights[j] - height
                if higher > 0:
                    other = other + steps[higher, ...]
                elif higher < 0:
                    row = row + steps[-higher, ...]
                    height = heights[j]
                row = np.minimum(row, other)
            if count == 1 and n_before[j] > 1:
                row = row.copy()  # others read that of j
            height += 1
        row[i] = -height
        rows[i], heights[i] = row, height
    # Arrays are buffers, which their type says from Python 3.12 on; `np.concatenate` takes three
    # times as long.
    joined = bytearray().join(rows)  # type: ignore[arg-type]
    distance = np.frombuffer(joined, dtype=np.int16).reshape(n, n)
    # Nodes before i in a row that it shares come out below zero, which is far above the cutoff
    # without a sign.
    distance -= distance.diagonal().copy()[:, None]
    short = distance.astype(np.uint8)
    short *= (distance.view(np.uint16) <= cutoff).view(np.uint8)
    return short
