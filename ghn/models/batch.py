"""A batch of graphs as padded dense tensors, the input of a hypernetwork.

Shape legend: B graphs, N nodes of the largest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ghn.graph.graph import Graph
from ghn.models.config import GHNConfig
from ghn.models.decoding.plan import Plan, plan
from ghn.models.levels import Levels
from ghn.models.sending import send

MAX_DEGREE = 100


@dataclass(frozen=True, eq=False)
class GraphBatch:
    """Padded tensors of B graphs. Padding has primitive 0, shape 0 and distance 0; `mask_BN` tells
    it apart.

    Attributes:
        graphs: the graphs, on the CPU.
        primitive_BN: int64, primitive indices.
        shape_BN4: int32, parameter shapes, padded on the right with zeros.
        distance_BNN: uint8, entry (b, i, j) the shortest path from i to j, 0 for none.
        mask_BN: bool, True for real nodes.
        degree_2BN: int64, in-degrees and out-degrees, clipped to `MAX_DEGREE`.
        made_for: a hypernetwork's configuration and what it has to decode, if that was planned
            ahead (`planned_for`).
        levels: in which order a GatedGNN visits the nodes, along the edges and against them, if
            that was found out ahead.
    """

    graphs: Sequence[Graph]
    primitive_BN: Tensor
    shape_BN4: Tensor
    distance_BNN: Tensor
    mask_BN: Tensor
    degree_2BN: Tensor
    made_for: tuple[GHNConfig, Plan] | None = None
    levels: tuple[Levels, Levels] | None = None

    @classmethod
    def from_graphs(cls, graphs: Sequence[Graph]) -> GraphBatch:
        """Pads and stacks `graphs` (at least one)."""
        b, n = len(graphs), max(graph.n_nodes for graph in graphs)
        primitive = np.zeros((b, n), dtype=np.int64)
        shape = np.zeros((b, n, 4), dtype=np.int32)
        distance = np.zeros((b, n, n), dtype=np.uint8)
        mask = np.zeros((b, n), dtype=bool)
        degree = np.zeros((2, b, n), dtype=np.int64)
        for i, graph in enumerate(graphs):
            k = graph.n_nodes
            primitive[i, :k] = graph.primitive
            shape[i, :k] = graph.shape
            distance[i, :k, :k] = graph.distance
            mask[i, :k] = True
            degree[:, i] = _degrees(graph, n)
        return cls(
            tuple(graphs),
            torch.from_numpy(primitive),
            torch.from_numpy(shape),
            torch.from_numpy(distance),
            torch.from_numpy(mask),
            torch.from_numpy(degree),
        )

    def planned_for(self, config: GHNConfig) -> GraphBatch:
        """The same batch with what a hypernetwork decodes for it, and in which order it visits the
        nodes if it does so, so that a loader's worker finds it out and not the thread that launches
        the step.
        """
        planned = replace(self, made_for=(config, plan(self.graphs, self.offsets, config)))
        return planned.with_levels() if config.message_passing == "gated" else planned

    def with_levels(self) -> GraphBatch:
        """The same batch with `levels`."""
        if self.levels is not None:
            return self
        n = self.primitive_BN.shape[1]
        along, against = (Levels.of(self.graphs, n, backward) for backward in (False, True))
        return replace(self, levels=(self._sent(along), self._sent(against)))

    def _sent(self, levels: Levels) -> Levels:
        return replace(
            levels,
            slot_BW=send(levels.slot_BW, self.device),
            position_BN=send(levels.position_BN, self.device),
        )

    def plan_of(self, config: GHNConfig) -> Plan:
        """What a hypernetwork decodes for all networks of the batch, heads included."""
        if self.made_for is not None and self.made_for[0] == config:
            return self.made_for[1]
        return plan(self.graphs, self.offsets, config)

    @property
    def offsets(self) -> range:
        """For each graph the row of its node 0 among the nodes of all, padding included."""
        n = self.primitive_BN.shape[1]
        return range(0, len(self.graphs) * n, n)

    @property
    def n_nodes(self) -> list[int]:
        """Number of nodes of each graph."""
        return [graph.n_nodes for graph in self.graphs]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.primitive_BN.device

    def single(self, index: int) -> GraphBatch:
        """Graph number `index` by itself, without padding: views of its part of the tensors."""
        n, b = self.graphs[index].n_nodes, slice(index, index + 1)
        tensors = (
            self.primitive_BN[b, :n],
            self.shape_BN4[b, :n],
            self.distance_BNN[b, :n, :n],
            self.mask_BN[b, :n],
            self.degree_2BN[:, b, :n],
        )
        return GraphBatch((self.graphs[index],), *tensors)

    def to(self, device: torch.device | str) -> GraphBatch:
        """The same batch with its tensors on `device`; a GPU is not waited for."""
        if self.device == torch.device(device):
            return self
        moved = [send(tensor, torch.device(device)) for tensor in self.tensors]
        return self._with(moved)

    def pin_memory(self) -> GraphBatch:
        """The same batch in page-locked memory (called by a `DataLoader`)."""
        return self._with([tensor.pin_memory() for tensor in self.tensors])

    def _with(self, tensors: Sequence[Tensor]) -> GraphBatch:
        primitive_BN, shape_BN4, distance_BNN, mask_BN, degree_2BN, *of_levels = tensors
        levels = None
        if self.levels is not None:
            first, second = (
                replace(old, slot_BW=slot_BW, position_BN=position_BN)
                for old, slot_BW, position_BN in zip(
                    self.levels, of_levels[::2], of_levels[1::2], strict=True
                )
            )
            levels = first, second
        return GraphBatch(
            self.graphs,
            primitive_BN,
            shape_BN4,
            distance_BNN,
            mask_BN,
            degree_2BN,
            self.made_for,
            levels,
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in the order of the fields."""
        return (
            self.primitive_BN,
            self.shape_BN4,
            self.distance_BNN,
            self.mask_BN,
            self.degree_2BN,
            *(t for own in self.levels or () for t in (own.slot_BW, own.position_BN)),
        )


def _degrees(graph: Graph, n: int) -> NDArray[np.int64]:
    """(2, n) in-degrees and out-degrees, counted from the edges, which are far fewer than pairs."""
    edges = graph.edges
    source, target = np.divmod(np.unique(edges[:, 0].astype(np.int64) * n + edges[:, 1]), n)
    return np.stack([np.bincount(end, minlength=n) for end in (target, source)]).clip(
        max=MAX_DEGREE
    )
