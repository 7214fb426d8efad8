"""The published format of DeepNets-1M: `deepnets1m_<split>.hdf5` with dense matrices,
`deepnets1m_<split>_meta.json`.

Known flaws of the published files, and what the import does about each (it counts them in
`Header.fixes`):

- **rows**: the generator lists a graph's nodes cell by cell, but numbers the rows and columns of
  its matrix in topological order, which with current libraries is another order. Where the matrix,
  nodes unlabelled, is that of the graph that the arguments stand for, nodes are taken from that
  graph.
- **stem_edge**: with a two-part stem, the second cell reads the first part instead of the second;
  moved, as the GHN-3 loader does.
- **extra_inputs**: a layer with several incoming edges keeps the first, as in the GHN-3 loader.
- **no_msa**: files made with a recent PyTorch lack the nodes of attention's softmax. They are kept
  as they are.

Distances are not imported: they follow from the edges, and those in the files predate the repairs.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from datasets.deepnets.graphs.builder import build_structure, build_structures
from datasets.deepnets.graphs.packing import GraphPack, pack
from datasets.deepnets.space.architecture import Architecture
from datasets.deepnets.space.parameters import count_parameters
from datasets.deepnets.space.rules import PUBLISHED
from datasets.deepnets.space.scaling import Scaling
from datasets.deepnets.space.table import ArchitectureTable
from datasets.deepnets.store.split import Block, Header, Split, open_split, write_split, writing
from ghn.errors import ConfigError, DamagedFileError, UnsupportedFormatError
from ghn.files import atomic_path
from ghn.graph import Graph, Primitive
from ghn.graph.graph import canonical_hashes
from ghn.graph.paths import shortest_paths

if TYPE_CHECKING:
    from datasets.deepnets.graphs.builder import Structures

PUBLISHED_CUTOFF = 250
"""Longest path in the published matrices."""

_BLOCK = 1000
_JOINING = (Primitive.sum, Primitive.concat, Primitive.cse)


@dataclass(frozen=True, eq=False)
class _Published:
    """One graph as a published file has it: primitives, edges, and per node its cell and parameter
    name.
    """

    primitive: NDArray[np.uint8]
    edges: NDArray[np.int32]
    cell: NDArray[np.uint8]
    param: tuple[str, ...]


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
        DamagedFileError: a file is damaged, or a graph is not what its arguments say; the message
            names it.
        UnsupportedFormatError: a file has another format.
    """
    hdf5, directory = Path(hdf5), Path(directory)
    nets, primitives, names = _read_meta(
        Path(meta) if meta else hdf5.with_name(hdf5.stem + "_meta.json"), split
    )
    rules = PUBLISHED.get(split)
    fixes: Counter[str] = Counter()
    numbers: dict[str, int] = {"": 0}
    blocks = list(_read_blocks(hdf5, split, nets, primitives, names, fixes, numbers))
    header = Header(
        split=split, origin="imported", n_graphs=len(nets), fixes=dict(fixes),
        rules=rules.model_dump(mode="json") if rules else {},
        width_factor=rules.width_factor if rules else 1,
        width_factor_large=rules.width_factor_large if rules else 1,
    )  # fmt: skip
    write_split(directory, header, blocks, tuple(numbers))
    return open_split(directory, split)


def _read_meta(
    path: Path, split: str
) -> tuple[list[dict[str, Any]], dict[int, str], dict[int, str]]:
    """The arguments of all networks, names of primitives, names of parameters."""
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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(
            f"{path}: not the meta data of a published split ({error!r})"
        ) from error
    return nets, primitives, names


def _read_blocks(
    path: Path,
    split: str,
    nets: Sequence[dict[str, Any]],
    primitives: dict[int, str],
    names: dict[int, str],
    fixes: Counter[str],
    numbers: dict[str, int],
) -> Iterator[Block]:
    if not path.exists():
        raise ConfigError(f"{path} does not exist")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DamagedFileError(f"{path}: not a whole HDF5 file ({error})") from error
    slots = 2 * max(len(net["genotype"]["normal"]) // 2 for net in nets)
    with (
        file,
        tqdm(total=len(nets), desc=f"import {split}", unit="graph", mininterval=1.0) as progress,
    ):
        if split not in file:
            raise UnsupportedFormatError(f"{path}: no group {split!r}; it has {', '.join(file)}")
        for begin in range(0, len(nets), _BLOCK):
            graphs, architectures = [], []
            for index in range(begin, min(begin + _BLOCK, len(nets))):
                where = f"{path}: graph {split}/{index}"
                try:
                    architecture = Architecture.from_dict(nets[index])
                    adjacency, nodes = (
                        file[f"{split}/{index}/{name}"][:] for name in ("adj", "nodes")
                    )
                    graph = _parse(adjacency, nodes, primitives, names, architecture)
                except ConfigError as error:
                    raise DamagedFileError(f"{where}: {error}") from error
                except (OSError, KeyError, ValueError, IndexError) as error:
                    raise DamagedFileError(f"{where} cannot be read ({error})") from error
                graphs.append(graph)
                architectures.append(architecture)
                progress.update()
            repaired = _repair(graphs, architectures, f"{path}: graph {split}", begin, fixes)
            yield _block(
                repaired,
                architectures,
                nets[begin : begin + len(graphs)],
                slots,
                numbers,
                path,
                begin,
            )


def _parse(
    adjacency: NDArray[np.uint8],
    nodes: NDArray[np.uint16],
    primitives: dict[int, str],
    names: dict[int, str],
    architecture: Architecture,
) -> _Published:
    n = len(nodes)
    if adjacency.shape != (n, n) or nodes.shape != (n, 3):
        raise ValueError(f"{n} nodes, but a matrix of {adjacency.shape}")
    edges = np.argwhere(adjacency == 1).astype(np.int32)
    if (edges[:, 0] >= edges[:, 1]).any():
        raise ValueError("the matrix has an edge against topological order")
    primitive = np.array(
        [_primitive(primitives[number]) for number in nodes[:, 0].tolist()], dtype=np.uint8
    )
    param = tuple(
        _param(names[name], cell) if _has_parameter(kind) else ""
        for kind, (_, cell, name) in zip(primitive.tolist(), nodes.tolist(), strict=True)
    )
    return _Published(primitive, edges, nodes[:, 1].astype(np.uint8), param)


def _primitive(name: str) -> Primitive:
    if name == "fc-b":
        return Primitive.bias
    return Primitive[re.sub(r"_\d+x\d+$|_\d+$", "", name)]


def _has_parameter(primitive: int) -> bool:
    return primitive not in (*_JOINING, Primitive.input, Primitive.msa, Primitive.glob_avg, 0, 1)


def _param(name: str, cell: int) -> str:
    """Our name of a parameter; several generations of published names differ in details."""
    if name.startswith(("stem", "pos_enc", "classifier")):
        return name
    name = re.sub(r"(?<!attn)\.(to_qkv|to_out)", r".attn.\1", name)
    name = re.sub(r"^(_ops\.\d+)\.(\d+\.)", r"\1.op.\2", name)
    if name.endswith("to_out.0."):
        name += "weight"
    return f"cells.{cell}.{name}"


def _repair(
    graphs: Sequence[_Published],
    architectures: Sequence[Architecture],
    where: str,
    begin: int,
    fixes: Counter[str],
) -> list[_Published]:
    """The graphs with the known flaws repaired (see the head of this file), from what their
    arguments say.

    Hypotheses about a graph's flaw are tried in turn on all graphs that are left, since hashing
    pays in batches.
    """
    expected = [
        _expected(graph, architecture)
        for graph, architecture in zip(graphs, architectures, strict=True)
    ]
    fixes["no_msa"] += sum(bridged for _, bridged in expected)
    built = [graph for graph, _ in expected]
    pruned_built = [_first_inputs(graph)[0] for graph in built]
    moved = [
        _move_stem_edge(graph, architecture)
        for graph, architecture in zip(graphs, architectures, strict=True)
    ]
    pruned = [_first_inputs(graph)[0] for graph in moved]
    left = np.arange(len(graphs))
    for flaws, theirs, ours, labelled in (
        ((), graphs, built, True),
        (("stem_edge",), moved, built, True),
        (("stem_edge", "extra_inputs"), pruned, pruned_built, True),
        (("rows",), graphs, built, False),
    ):
        same = (
            _hashes([theirs[i] for i in left.tolist()], labelled)
            == _hashes([ours[i] for i in left.tolist()], labelled)
        ).all(axis=1)
        for i in left[same].tolist():
            changed = {
                "stem_edge": moved[i] is not graphs[i],
                "extra_inputs": len(pruned[i].edges) < len(moved[i].edges),
                "rows": True,
            }
            fixes.update(flaw for flaw in flaws if changed[flaw])
            if "extra_inputs" not in flaws:
                fixes["extra_inputs"] += int(len(pruned_built[i].edges) < len(built[i].edges))
        left = left[~same]
        if not len(left):
            return pruned_built
    i = int(left[0])
    raise DamagedFileError(
        f"{where}/{begin + i} is not the graph that its arguments describe, nor a known flaw of it:"
        f" {len(graphs[i].primitive)} nodes and {len(graphs[i].edges)} edges, expected"
        f" {len(built[i].primitive)} and {len(built[i].edges)}"
    )


def _expected(graph: _Published, architecture: Architecture) -> tuple[_Published, bool]:
    """The graph of the arguments with cse nodes where the file has them, and whether msa nodes had
    to be left out.
    """
    genotype = architecture.genotype
    kept: list[frozenset[int]] = [frozenset()] * architecture.n_cells
    for cell in graph.cell[graph.primitive == Primitive.cse].tolist():
        edges = genotype.reduce if architecture.reductions[cell] else genotype.normal
        kept[cell] = frozenset(k for k, (name, _) in enumerate(edges) if name == "cse")
    structure = build_structure(architecture, kept=kept)
    cell = _cells(structure, architecture.n_cells)
    built = _Published(
        structure.primitive, structure.edges.astype(np.int32), cell, tuple(structure.param)
    )
    lacks_msa = (built.primitive == Primitive.msa).any() and not (
        graph.primitive == Primitive.msa
    ).any()
    return (_bridge(built, Primitive.msa), True) if lacks_msa else (built, False)


def _cells(structure: Structures, n_cells: int) -> NDArray[np.uint8]:
    """The cell of each node; the stem belongs to the first and the classifier to the last."""
    cells = [
        0,
        *(
            int(prefix.split(".")[1]) if prefix else n_cells - 1
            for prefix in structure.prefixes[1:]
        ),
    ]
    return np.repeat(np.array(cells, dtype=np.uint8), structure.sizes)


def _bridge(graph: _Published, primitive: Primitive) -> _Published:
    """The graph without nodes of a primitive, their neighbours joined."""
    removed = graph.primitive == primitive
    number = np.cumsum(~removed) - 1
    sources: dict[int, list[int]] = {}
    for source, target in graph.edges.tolist():
        sources.setdefault(target, []).extend(
            sources.get(source, []) if removed[source] else [source]
        )
    edges = [
        (number[source], number[target])
        for target, its in sources.items()
        if not removed[target]
        for source in dict.fromkeys(its)
    ]
    keep = np.flatnonzero(~removed)
    return _Published(
        graph.primitive[keep],
        np.array(edges, dtype=np.int32),
        graph.cell[keep],
        tuple(graph.param[node] for node in keep.tolist()),
    )


def _move_stem_edge(graph: _Published, architecture: Architecture) -> _Published:
    """Lets the second cell read the second part of the stem."""
    if not architecture.two_stems:
        return graph
    ends = [
        max((i for i, p in enumerate(graph.param) if p.startswith(stem)), default=-1)
        for stem in ("stem0", "stem1")
    ]
    wrong = (graph.edges[:, 0] == ends[0]) & (graph.cell[graph.edges[:, 1]] == 1)
    if ends[1] < 0 or not wrong.any():
        return graph
    edges = graph.edges.copy()
    edges[wrong, 0] = ends[1]
    return _Published(graph.primitive, edges, graph.cell, graph.param)


def _first_inputs(graph: _Published) -> tuple[_Published, int]:
    """Only the first edge into nodes that do not join anything; and how many edges that leaves
    out.
    """
    order = np.lexsort((graph.edges[:, 0], graph.edges[:, 1]))
    edges = graph.edges[order]
    first = np.diff(edges[:, 1], prepend=-1) != 0
    keep = first | np.isin(graph.primitive[edges[:, 1]], [int(p) for p in _JOINING])
    return _Published(graph.primitive, edges[keep], graph.cell, graph.param), int((~keep).sum())


def _hashes(graphs: Sequence[_Published], labelled: bool) -> NDArray[np.uint64]:
    """(G, 2) canonical hashes, with or without the primitives."""
    if not graphs:
        return np.zeros((0, 2), dtype=np.uint64)
    sizes = np.array([len(graph.primitive) for graph in graphs])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    label = np.concatenate([graph.primitive for graph in graphs])[:, None].astype(np.int32)
    edges = np.concatenate(
        [graph.edges + start for graph, start in zip(graphs, starts, strict=True)]
    )
    return canonical_hashes(label if labelled else np.zeros_like(label), edges, sizes)


def _block(
    graphs: Sequence[_Published],
    architectures: Sequence[Architecture],
    nets: Sequence[dict[str, Any]],
    slots: int,
    numbers: dict[str, int],
    path: Path,
    begin: int,
) -> Block:
    table = ArchitectureTable.from_architectures(architectures, slots)
    n_params = np.stack(
        [count_parameters(table, Scaling(image_size=size)) for size in (32, 224)], axis=1
    )
    recorded = np.array([[net["num_params"][k] for k in ("cifar10", "imagenet")] for net in nets])
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
        [numbers.setdefault(p, len(numbers)) for g in graphs for p in map(_suffix, g.param)],
        np.uint16,
    )
    cell = np.concatenate([g.cell for g in graphs])
    return Block(code, packed, hashes, n_params, packed.checksums(code), cell, name)


def _suffix(param: str) -> str:
    return re.sub(r"^cells\.\d+\.", "", param)


def published_graph(split: Split, index: int, built: Graph) -> Graph:
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
                        _extended(graph), cells, _published_names(graph), strict=True
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


def _extended(graph: Graph) -> Iterator[str]:
    """The published names of primitives, which tell 1x1 convolutions apart."""
    for primitive, shape in zip(graph.primitive.tolist(), graph.shape.tolist(), strict=True):
        small = shape[2] == shape[3] and shape[2] <= 1
        yield "conv_1x1" if primitive == Primitive.conv and small else Primitive(primitive).name


def _published_names(graph: Graph) -> Iterator[str]:
    for primitive, param in zip(graph.primitive.tolist(), graph.param, strict=True):
        yield _suffix(param).replace(".attn.", ".") or Primitive(primitive).name


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
