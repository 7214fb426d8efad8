"""The order in which the GatedGNN of GHN-1 and GHN-2 visits the nodes of a batch.

Shape legend: B graphs, N nodes, L levels (depths), V nodes of the widest graph in a level, W the
sum of V over levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ghn.graph import Graph


@dataclass(frozen=True, eq=False)
class Levels:
    """The order of a traversal: which nodes are updated together, and where to find each node
    afterwards.

    Attributes:
        slot_BW: int64, node indices level by level; N stands for none.
        position_BN: int64, place of node n of graph b in `slot_BW`; 0 for padding.
        widths: V of each level.
    """

    slot_BW: Tensor
    position_BN: Tensor
    widths: tuple[int, ...]

    @classmethod
    def of(cls, graphs: Sequence[Graph], n: int, backward: bool) -> Levels:
        """The levels of a batch padded to `n` nodes, on the CPU."""
        depths = [depth(graph, backward) for graph in graphs]
        counts = np.stack(
            [np.bincount(d, minlength=max(int(x.max()) for x in depths) + 1) for d in depths]
        )
        width_L = counts.max(axis=0)
        offset_L = np.concatenate([[0], np.cumsum(width_L)])
        slots = np.full((len(graphs), offset_L[-1]), n)
        position = np.zeros((len(graphs), n), dtype=np.int64)
        for b, depth_N in enumerate(depths):
            order = np.argsort(depth_N, kind="stable")
            level = depth_N[order]
            rank = np.arange(len(order)) - np.concatenate([[0], np.cumsum(counts[b])])[level]
            place = offset_L[level] + rank
            slots[b, place] = order
            position[b, order] = place
        return cls(torch.from_numpy(slots), torch.from_numpy(position), tuple(width_L.tolist()))

    @property
    def nodes(self) -> tuple[Tensor, ...]:
        """L tensors (B, V) of node indices; N stands for none."""
        return torch.split(self.slot_BW, list(self.widths), dim=1)


def depth(graph: Graph, backward: bool) -> NDArray[np.int64]:
    """(N,) length of the longest path that ends (backward: starts) at each node."""
    depth_N = [0] * graph.n_nodes
    edges = graph.edges
    if backward:
        for source, target in edges[np.argsort(-edges[:, 0], kind="stable")].tolist():
            depth_N[source] = max(depth_N[source], depth_N[target] + 1)
    else:
        for source, target in edges[np.argsort(edges[:, 1], kind="stable")].tolist():
            depth_N[target] = max(depth_N[target], depth_N[source] + 1)
    return np.asarray(depth_N, dtype=np.int64)
