"""Many graphs as flat arrays whose shapes and names are not written out yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.deepnets.graphs.layout import ParameterNames, Template
from datasets.deepnets.space import parts as ops
from ghn.graph import Graph


@dataclass(frozen=True, eq=False)
class Structures:
    """G graphs whose shapes and names are not written out yet, in S segments: stems, live cells,
    classifier layers.

    Attributes:
        n_nodes: (G,) int64.
        n_edges: (G,) int64.
        kind: (N,) uint16, see `operations`; one graph after another.
        edges: (E, 2) int64, nodes numbered through, sorted by target, then source.
        sizes: (S,) int64, numbers of nodes of the segments.
        widths: (S, 3) int32, their widths C, P0 and P1.
        segments: (G,) how many of them each graph has.
        prefixes: of the names in each segment.
        templates: of each segment.
    """

    n_nodes: NDArray[np.int64]
    n_edges: NDArray[np.int64]
    kind: NDArray[np.uint16]
    edges: NDArray[np.int64]
    sizes: NDArray[np.int64]
    widths: NDArray[np.int32]
    segments: Sequence[int]
    prefixes: Sequence[str]
    templates: Sequence[Template]

    def __len__(self) -> int:
        return len(self.n_nodes)

    @property
    def primitive(self) -> NDArray[np.uint8]:
        """(N,) uint8."""
        return ops.primitives_of(self.kind)

    @property
    def shape(self) -> NDArray[np.int32]:
        """(N, 4) int32."""
        return ops.shapes_of(self.kind, np.repeat(self.widths, self.sizes, axis=0))

    @property
    def param(self) -> ParameterNames:
        """(N,) names."""
        return ParameterNames(self.prefixes, self.templates)

    def graphs(self, names: Sequence[str]) -> list[Graph]:
        """The graphs one by one, under the given names."""
        primitive, shape = self.primitive, self.shape
        found, begin, first, segment = [], 0, 0, 0
        sizes = zip(names, self.n_nodes.tolist(), self.n_edges.tolist(), self.segments, strict=True)
        for name, n_nodes, n_edges, n_segments in sizes:
            nodes, edges = slice(begin, begin + n_nodes), self.edges[first : first + n_edges]
            segments = slice(segment, segment + n_segments)
            param = ParameterNames(self.prefixes[segments], self.templates[segments])
            local = np.subtract(edges, begin, dtype=np.int32, casting="same_kind")
            found.append(Graph(primitive[nodes], local, shape[nodes], param, name))
            begin, first, segment = begin + n_nodes, first + n_edges, segment + n_segments
        return found
