"""Imports splits in the published format of DeepNets-1M: `deepnets1m_<split>.hdf5` with dense
matrices beside `deepnets1m_<split>_meta.json`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from datasets.deepnets.graphs.builder import build_structures
from datasets.deepnets.graphs.packing import pack
from datasets.deepnets.graphs.split import Split, open_split
from datasets.deepnets.published.names import has_parameter, param_of, primitive_of, suffix
from datasets.deepnets.published.repair import PublishedGraph, repair
from datasets.deepnets.space.architecture import Architecture
from datasets.deepnets.space.parameters import count_parameters
from datasets.deepnets.space.rules import PUBLISHED
from datasets.deepnets.space.scaling import Scaling
from datasets.deepnets.space.table import ArchitectureTable
from datasets.deepnets.store.files import only_writer_of, reading
from datasets.deepnets.store.header import Header
from datasets.deepnets.store.pack import GraphPack
from datasets.deepnets.store.writer import Block, write_split
from ghn.errors import ConfigError, DamagedFileError, UnsupportedFormatError

_BLOCK = 1000


class _Meta(NamedTuple):
    """What the JSON file says of a split.

    Attributes:
        nets: the arguments of all networks.
        primitives: names of primitives by number.
        names: names of parameters by number.
        slots: most operations of a cell.
        n_params: (G, 2) parameters of each network at the two input sizes.
    """

    nets: list[dict[str, Any]]
    primitives: dict[int, str]
    names: dict[int, str]
    slots: int
    n_params: NDArray[np.int64]


def import_published(
    hdf5: str | Path, directory: str | Path, split: str, meta: str | Path | None = None
) -> Split:
    """Reads a split from a published file into the store.

    Args:
        hdf5: `deepnets1m_train.hdf5`, `deepnets1m_search.hdf5` or `deepnets1m_eval.hdf5`.
        directory: the store.
        split: which split of the file.
        meta: the JSON file; by default the one next to `hdf5`.

    Raises:
        ConfigError: a file, or the split in it, does not exist.
        GHNError: another process is writing this split.
        DamagedFileError: a file is damaged, or a graph is not what its arguments say; the message
            names it.
        UnsupportedFormatError: a file has another format.
    """
    hdf5, directory = Path(hdf5), Path(directory)
    with only_writer_of(directory, split):
        its = _read_meta(Path(meta) if meta else hdf5.with_name(hdf5.stem + "_meta.json"), split)
        rules = PUBLISHED.get(split)
        fixes: Counter[str] = Counter()
        numbers: dict[str, int] = {"": 0}
        blocks = list(_read_blocks(hdf5, split, its, fixes, numbers))
        header = Header(
            split=split, origin="imported", n_graphs=len(its.nets), fixes=dict(fixes),
            rules=rules.model_dump(mode="json") if rules else {},
            width_factor=rules.width_factor if rules else 1,
            width_factor_large=rules.width_factor_large if rules else 1,
        )  # fmt: skip
        write_split(directory, header, blocks, tuple(numbers))
    return open_split(directory, split)


def _read_meta(path: Path, split: str) -> _Meta:
    if not path.exists():
        raise ConfigError(
            f"{path} does not exist; the published HDF5 files have a JSON file of that name beside"
            " them"
        )
    try:
        content = json.loads(path.read_bytes())
        if split not in content:
            raise ConfigError(f"{path}: no split {split!r}; it has {', '.join(content)}")
        its = content[split]
        primitives = {int(k): str(v) for k, v in its["meta"]["primitives_ext"].items()}
        names = {int(k): str(v) for k, v in its["meta"]["unique_op_names"].items()}
        nets: list[dict[str, Any]] = its["nets"]
        if not nets:
            raise ValueError("it has no networks")
        slots = 2 * max(len(net["genotype"]["normal"]) // 2 for net in nets)
        sizes = ("cifar10", "imagenet")
        n_params = np.array([[int(net["num_params"][k]) for k in sizes] for net in nets])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(
            f"{path}: not the meta data of a published split ({error!r})"
        ) from error
    return _Meta(nets, primitives, names, slots, n_params)


def _read_blocks(
    path: Path, split: str, its: _Meta, fixes: Counter[str], numbers: dict[str, int]
) -> Iterator[Block]:
    if not path.exists():
        raise ConfigError(f"{path} does not exist")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DamagedFileError(f"{path}: not a whole HDF5 file ({error})") from error
    n = len(its.nets)
    with (
        file,
        tqdm(total=n, desc=f"import {split}", unit="graph", mininterval=1.0) as progress,
    ):
        with reading(path):
            groups = list(file)
        if split not in groups:
            raise UnsupportedFormatError(f"{path}: no group {split!r}; it has {', '.join(groups)}")
        for begin in range(0, n, _BLOCK):
            graphs, architectures = [], []
            for index in range(begin, min(begin + _BLOCK, n)):
                where = f"{path}: graph {split}/{index}"
                try:
                    architecture = Architecture.from_dict(its.nets[index])
                    adjacency, nodes = (
                        file[f"{split}/{index}/{name}"][:] for name in ("adj", "nodes")
                    )
                    graph = _parse(adjacency, nodes, its.primitives, its.names, architecture)
                except ConfigError as error:
                    raise DamagedFileError(f"{where}: {error}") from error
                except (
                    OSError,
                    KeyError,
                    ValueError,
                    IndexError,
                    TypeError,
                    RuntimeError,
                ) as error:
                    raise DamagedFileError(f"{where} cannot be read ({error})") from error
                graphs.append(graph)
                architectures.append(architecture)
                progress.update()
            repaired = repair(graphs, architectures, f"{path}: graph {split}", begin, fixes)
            recorded = its.n_params[begin : begin + len(graphs)]
            yield _block(repaired, architectures, recorded, its.slots, numbers, path, begin)


def _parse(
    adjacency: NDArray[np.uint8],
    nodes: NDArray[np.uint16],
    primitives: dict[int, str],
    names: dict[int, str],
    architecture: Architecture,
) -> PublishedGraph:
    n = len(nodes)
    if adjacency.shape != (n, n) or nodes.shape != (n, 3):
        raise ValueError(f"{n} nodes, but a matrix of {adjacency.shape}")
    edges = np.argwhere(adjacency == 1).astype(np.int32)
    if (edges[:, 0] >= edges[:, 1]).any():
        raise ValueError("the matrix has an edge against topological order")
    primitive = np.array(
        [primitive_of(primitives[number]) for number in nodes[:, 0].tolist()], dtype=np.uint8
    )
    param = tuple(
        param_of(names[name], cell) if has_parameter(kind) else ""
        for kind, (_, cell, name) in zip(primitive.tolist(), nodes.tolist(), strict=True)
    )
    return PublishedGraph(primitive, edges, nodes[:, 1].astype(np.uint8), param)


def _block(
    graphs: Sequence[PublishedGraph],
    architectures: Sequence[Architecture],
    recorded: NDArray[np.int64],
    slots: int,
    numbers: dict[str, int],
    path: Path,
    begin: int,
) -> Block:
    table = ArchitectureTable.from_architectures(architectures, slots)
    n_params = np.stack(
        [count_parameters(table, Scaling(image_size=size)) for size in (32, 224)], axis=1
    )
    if (wrong := np.flatnonzero((recorded != n_params).any(axis=1))).size:
        i = int(wrong[0])
        raise DamagedFileError(
            f"{path}: graph {begin + i} has {n_params[i].tolist()} parameters at the two input"
            f" sizes; its meta data says {recorded[i].tolist()}"
        )
    code = table.encode()
    in_degree = [np.bincount(g.edges[:, 1], minlength=len(g.primitive)) for g in graphs]
    back = []
    for graph in graphs:
        edges = graph.edges[np.lexsort((graph.edges[:, 0], graph.edges[:, 1]))]
        back.append(edges[:, 1] - edges[:, 0])
    packed = GraphPack(
        np.array([len(g.primitive) for g in graphs], dtype=np.uint16),
        np.array([len(b) for b in back], dtype=np.uint16),
        np.concatenate([g.primitive for g in graphs]),
        np.concatenate(in_degree).astype(np.uint8),
        np.concatenate(back).astype(np.uint16),
    )
    _, hashes = pack(build_structures(architectures))
    name = np.array(
        [numbers.setdefault(p, len(numbers)) for g in graphs for p in map(suffix, g.param)],
        np.uint16,
    )
    cell = np.concatenate([g.cell for g in graphs])
    return Block(code, packed, hashes, n_params, packed.checksums(code), cell, name)
