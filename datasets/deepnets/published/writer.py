"""Exports splits in the published format of DeepNets-1M."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from datasets.deepnets.graphs.split import Split
from datasets.deepnets.published.names import extended_names, published_names
from datasets.deepnets.store.files import writing
from ghn.files import atomic_path
from ghn.graph import Graph, Primitive
from ghn.graph.paths import shortest_paths

PUBLISHED_CUTOFF = 250
"""Longest path in the published matrices."""


def export_published(split: Split, directory: str | Path) -> tuple[Path, Path]:
    """Writes a split in the published format; returns the HDF5 file and the JSON file.

    Nodes are listed in the order of the matrix, cell by cell, so that the rows agree with it.

    Raises:
        GHNError: the disk is full or not writable.
    """
    stem = Path(directory) / f"deepnets1m_{split.name}"
    hdf5, meta = stem.with_suffix(".hdf5"), stem.with_name(stem.name + "_meta.json")
    primitives: dict[str, int] = {}
    names: dict[str, int] = {}
    nets = []
    n_params = split.n_params.tolist()
    with writing(hdf5), atomic_path(hdf5) as temporary, atomic_path(meta) as meta_temporary:
        with h5py.File(temporary, "w") as file:
            file.attrs["title"] = "DeepNets-1M"
            group = file.create_group(split.name)
            for index in tqdm(
                range(len(split)), desc=f"export {split.name}", unit="graph", mininterval=1.0
            ):
                architecture, graph = split[index], split.graph(index)
                cells = _cells_by_name(graph, architecture.n_cells)
                rows = [
                    (
                        primitives.setdefault(kind, len(primitives)),
                        cell,
                        names.setdefault(name, len(names)),
                    )
                    for kind, cell, name in zip(
                        extended_names(graph), cells, published_names(graph), strict=True
                    )
                ]
                distance = shortest_paths(graph.n_nodes, graph.edges, PUBLISHED_CUTOFF)
                group.create_dataset(f"{index}/adj", data=distance)
                group.create_dataset(f"{index}/nodes", data=np.array(rows, dtype=np.uint16))
                counts = dict(zip(("cifar10", "imagenet"), n_params[index], strict=True))
                nets.append(
                    {**architecture.to_dict(), "num_nodes": graph.n_nodes, "num_params": counts}
                )
        tables = {
            "primitives_ext": {number: name for name, number in primitives.items()},
            "unique_op_names": {number: name for name, number in names.items()},
        }
        meta_temporary.write_text(json.dumps({split.name: {"nets": nets, "meta": tables}}))
    return hdf5, meta


def _cells_by_name(graph: Graph, n_cells: int) -> list[int]:
    """The cell of each node: of a parameter by its name, of another node the latest among what it
    reads.
    """
    cells = [-1] * graph.n_nodes
    sources: list[list[int]] = [[] for _ in cells]
    for source, target in graph.edges.tolist():
        sources[target].append(source)
    for node, param in enumerate(graph.param):
        if param.startswith("cells."):
            cells[node] = int(param.split(".")[1])
        elif param.startswith("classifier") or graph.primitive[node] == Primitive.glob_avg:
            cells[node] = n_cells - 1
        else:
            cells[node] = max((cells[source] for source in sources[node]), default=0)
    return cells
