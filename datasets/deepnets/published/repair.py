"""Repairs the known flaws of published graphs, from what their arguments say.

The flaws, which the import counts in `Header.fixes`, and what is done about each:

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

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.deepnets.graphs.builder import build_structure
from datasets.deepnets.graphs.structures import Structures
from datasets.deepnets.published.names import JOINING
from datasets.deepnets.space.architecture import Architecture
from ghn.errors import DamagedFileError
from ghn.graph import Primitive
from ghn.graph.graph import canonical_hashes


@dataclass(frozen=True, eq=False)
class PublishedGraph:
    """One graph as a published file has it: primitives, edges, and per node its cell and parameter
    name.
    """

    primitive: NDArray[np.uint8]
    edges: NDArray[np.int32]
    cell: NDArray[np.uint8]
    param: tuple[str, ...]


def repair(
    graphs: Sequence[PublishedGraph],
    architectures: Sequence[Architecture],
    where: str,
    begin: int,
    fixes: Counter[str],
) -> list[PublishedGraph]:
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


def _expected(graph: PublishedGraph, architecture: Architecture) -> tuple[PublishedGraph, bool]:
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
    built = PublishedGraph(
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


def _bridge(graph: PublishedGraph, primitive: Primitive) -> PublishedGraph:
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
    return PublishedGraph(
        graph.primitive[keep],
        np.array(edges, dtype=np.int32),
        graph.cell[keep],
        tuple(graph.param[node] for node in keep.tolist()),
    )


def _move_stem_edge(graph: PublishedGraph, architecture: Architecture) -> PublishedGraph:
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
    return PublishedGraph(graph.primitive, edges, graph.cell, graph.param)


def _first_inputs(graph: PublishedGraph) -> tuple[PublishedGraph, int]:
    """Only the first edge into nodes that do not join anything; and how many edges that leaves
    out.
    """
    order = np.lexsort((graph.edges[:, 0], graph.edges[:, 1]))
    edges = graph.edges[order]
    first = np.diff(edges[:, 1], prepend=-1) != 0
    keep = first | np.isin(graph.primitive[edges[:, 1]], [int(p) for p in JOINING])
    return PublishedGraph(graph.primitive, edges[keep], graph.cell, graph.param), int((~keep).sum())


def _hashes(graphs: Sequence[PublishedGraph], labelled: bool) -> NDArray[np.uint64]:
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
