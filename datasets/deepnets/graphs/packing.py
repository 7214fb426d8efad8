"""Graphs that were built, in the form in which the store keeps them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datasets.deepnets.graphs.structures import Structures
from datasets.deepnets.store.pack import GraphPack
from ghn.errors import InvalidGraphError
from ghn.graph.graph import canonical_hashes


def pack(structures: Structures) -> tuple[GraphPack, NDArray[np.uint64]]:
    """Graphs as flat arrays, and their canonical hashes (G, 2).

    Raises:
        InvalidGraphError: a graph exceeds what the store can express.
    """
    primitive, edges = structures.primitive, structures.edges
    label = np.concatenate([primitive[:, None].astype(np.int32), structures.shape], axis=1)
    in_degree = np.bincount(edges[:, 1], minlength=len(primitive))
    largest = max(structures.n_nodes.max(initial=0), structures.n_edges.max(initial=0))
    if in_degree.max(initial=0) > 255 or largest > 65535:
        raise InvalidGraphError(
            "a graph has more than 255 edges into a node or more than 65,535 nodes or edges"
        )
    packed = GraphPack(
        structures.n_nodes.astype(np.uint16),
        structures.n_edges.astype(np.uint16),
        primitive,
        in_degree.astype(np.uint8),
        (edges[:, 1] - edges[:, 0]).astype(np.uint16),
    )
    return packed, canonical_hashes(label, edges, structures.n_nodes)
