"""A split with its graphs, as everything above the store uses it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.deepnets.graphs.builder import scaled_graphs
from datasets.deepnets.space.architecture import Architecture
from datasets.deepnets.space.scaling import Scaling
from datasets.deepnets.store.files import paths_of
from datasets.deepnets.store.split import StoredSplit
from ghn.errors import ConfigError, DamagedFileError
from ghn.graph import Graph, Primitive


def open_split(directory: str | Path, split: str) -> Split:
    """Opens a split.

    Raises:
        ConfigError: the split is not there.
        DamagedFileError: a file is truncated or damaged, or the two disagree.
        UnsupportedFormatError: a file is something else, or of a newer version.
    """
    h5_path, parquet_path = paths_of(Path(directory), split)
    for path in (h5_path, parquet_path):
        if not path.exists():
            raise ConfigError(
                f"{path} does not exist; generate the split with `ghn generate --split {split}`"
            )
    return Split(h5_path, parquet_path)


class Split(StoredSplit):
    """A split that builds the graphs of its architectures."""

    def graph(
        self,
        index: int,
        channels: int = 32,
        fc_dim: int | None = None,
        num_classes: int = 10,
        image_size: int = 32,
        imagenet_stride: int = 4,
    ) -> Graph:
        """The graph of an architecture at the given sizes (see `builder.build_graph`).

        An imported split keeps the published nodes and edges; names and shapes are those of our
        network.
        """
        return self.scaled_graph(
            index, Scaling(channels, fc_dim, num_classes, image_size, imagenet_stride)
        )

    def scaled_graph(self, index: int, scaling: Scaling) -> Graph:
        """`graph` with its sizes in one object."""
        return self.scaled_graphs([index], [self[index]], [scaling])[0]

    def scaled_graphs(
        self,
        indices: Sequence[int],
        architectures: Sequence[Architecture],
        scalings: Sequence[Scaling],
    ) -> list[Graph]:
        """The graphs of some architectures at once, which is faster than one by one.

        Args:
            indices: which.
            architectures: `self[i]` for each of them.
            scalings: their sizes.
        """
        graphs = scaled_graphs(
            architectures, scalings, [self.identifier(index) for index in indices]
        )
        if self.header.origin == "generated":
            return graphs
        return [
            _published_graph(self, index, graph)
            for index, graph in zip(indices, graphs, strict=True)
        ]


def _published_graph(split: StoredSplit, index: int, built: Graph) -> Graph:
    """The stored graph of an imported architecture, its shapes taken from the graph that its
    arguments build.

    Raises:
        DamagedFileError: the stored graph is damaged, or has a parameter that the network has not.
    """
    primitive, edges, block = split.stored_edges(index)
    assert block.cell is not None
    assert block.name is not None
    shapes = {param: shape for param, shape in zip(built.param, built.shape, strict=True) if param}
    shape = np.zeros((len(primitive), 4), dtype=np.int32)
    params = []
    for node, (cell, number) in enumerate(
        zip(block.cell.tolist(), block.name.tolist(), strict=True)
    ):
        name = split.param_names[number]
        param = (
            name
            if not name or name.startswith(("stem", "pos_enc", "classifier"))
            else f"cells.{cell}.{name}"
        )
        if param and param not in shapes:
            raise DamagedFileError(
                f"{split.h5_path}: graph {index} has a parameter {param} that its network has not"
            )
        if param:
            shape[node] = shapes[param]
        elif primitive[node] in (Primitive.max_pool, Primitive.avg_pool):
            shape[node] = (1, 1, 3, 3)
        params.append(param)
    return Graph(primitive, edges, shape, tuple(params), split.identifier(index))
