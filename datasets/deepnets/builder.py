"""Graphs of DeepNets-1M straight from the architecture, without instantiating or running a network.

A cell's piece of graph depends on few things (normal or reduction, which inputs exist, ...), so it is laid out once as
a template of arrays and stamped for every cell with an offset: a graph costs a few array operations per cell instead of
Python work per node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from datasets.deepnets import operations as ops
from datasets.deepnets.operations import INPUT, Part
from datasets.deepnets.scaling import Scaling
from datasets.deepnets.search_space import Architecture
from datasets.deepnets.squeeze_quirk import ZEROS, kept_products
from datasets.deepnets.wiring import Cell, Route, Wiring, wire
from ghn.graph import Graph, Primitive

CIFAR = Scaling()
"""The sizes at which the published statistics are taken."""

_S0, _S1 = -1, -2
"""Sources in a template that stand for the cell's two inputs."""

Piece = tuple[str, Part, int]
"""Prefix of the names, nodes, and which input's width (0 or 1) P means."""


@dataclass
class _Layout:
    """Nodes and edges under construction.

    A value is the list of nodes that whatever reads it must be joined to: mostly one, but more where the reference
    leaves out an operation with several inputs. Two values are one tensor if they are the same list.
    """

    pieces: list[Piece] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)
    n_nodes: int = 0

    def add(self, prefix: str, part: Part, value: list[int], which: int = 0) -> list[int]:
        """Appends `part` behind `value`; returns its output value."""
        offset = self.n_nodes
        for source, target in part.edges:
            if source == INPUT:
                self.edges += [(node, target + offset) for node in value]
            else:
                self.edges.append((source + offset, target + offset))
        self.pieces.append((prefix, part, which))
        self.n_nodes += len(part.primitives)
        outputs: list[int] = []
        for node in part.outputs:
            outputs += value if node == INPUT else [node + offset]
        return outputs

    def join(self, part: Part, values: Sequence[list[int]]) -> list[int]:
        """A sum or concat of `values`; left out, as in the reference, where it has only one input."""
        tensors: list[list[int]] = []
        for value in values:
            if not any(value is other for other in tensors):
                tensors.append(value)
        nodes = list(dict.fromkeys(node for value in tensors for node in value))
        if len(tensors) == 1 or len(nodes) == 1:
            return tensors[0]
        node = self.n_nodes
        self.edges += [(source, node) for source in nodes]
        self.pieces.append(("", part, 0))
        self.n_nodes += 1
        return [node]


@dataclass(frozen=True, eq=False)
class _Template:
    pieces: tuple[Piece, ...]
    primitive: NDArray[np.uint8]
    inner: NDArray[np.int32]  # (E, 2) edges among the template's nodes
    outer: tuple[tuple[int, ...], tuple[int, ...]]  # nodes that read input 0, and input 1
    outputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Structure:
    """A graph whose names and shapes, which depend on the scaling, are not written out yet.

    Attributes:
        primitive: (N,) uint8.
        edges: (E, 2) int32.
        stem: pieces of the stem.
        cells: the live cells with their pieces.
        head: pieces of the classifier.
        wiring: widths.
    """

    primitive: NDArray[np.uint8]
    edges: NDArray[np.int32]
    stem: tuple[Piece, ...]
    cells: tuple[tuple[Cell, tuple[Piece, ...]], ...]
    head: tuple[Piece, ...]
    wiring: Wiring


def _cell_template(architecture: Architecture, cell: Cell, kept: frozenset[int], one_input: bool) -> _Template:
    """Lays out a cell.

    Args:
        architecture: the network.
        cell: one of the cells that share this template.
        kept: the cell's products that are nodes.
        one_input: both inputs are the same tensor.
    """
    layout, route, norm = _Layout(), cell.route, architecture.norm is not None
    states: list[list[int] | None] = [[_S0], [_S1]]
    if architecture.preproc:
        for i in (0, 1):
            if route.inputs[i]:
                halve = i == 0 and cell.halve_first
                part = ops.factorized_reduce(norm, True) if halve else ops.preprocess(norm)
                states[i] = layout.add(f"preprocess{i}.", part, [_S0 if i == 0 else _S1], i)
    elif one_input and not cell.halve_first:
        states[1] = states[0]
    for terms in route.terms:
        values = []
        for k in terms:
            if k not in route.used:
                continue
            name, source = cell.edges[k]
            value = states[source]
            assert value is not None
            nodes = ops.operation(name, norm, cell.stride > 1 and source < 2, k in kept)
            values.append(value if nodes is None else layout.add(f"_ops.{k}.", nodes, value))
        states.append(layout.join(ops.SUM, values) if values else None)
    output = _concat(layout, states, route, ZEROS in kept)
    return _finish(layout, output)


def _concat(layout: _Layout, states: Sequence[list[int] | None], route: Route, zeros_is_node: bool) -> list[int]:
    stand_in = states[route.source]
    assert stand_in is not None
    zeros = list(stand_in)
    if route.missing and zeros_is_node:
        node = layout.n_nodes
        layout.edges += [(source, node) for source in stand_in]
        zeros = layout.add("", ops.ZERO_PRODUCT, [])
    values = []
    for state in route.concat:
        value = zeros if state in route.missing else states[state]
        assert value is not None
        values.append(value)
    return layout.join(ops.CONCAT, values)


def _finish(layout: _Layout, output: Sequence[int]) -> _Template:
    primitive = np.array([p for _, part, _ in layout.pieces for p in part.primitives], dtype=np.uint8)
    edges = layout.edges
    inner = np.array([edge for edge in edges if edge[0] >= 0], dtype=np.int32).reshape(-1, 2)
    outer = (
        tuple(target for source, target in edges if source == _S0),
        tuple(target for source, target in edges if source == _S1),
    )
    return _Template(tuple(layout.pieces), primitive, inner, outer, tuple(output))


@cache
def _stem(
    vit: bool, stem_type: int, ks: int, pool: bool, norm: bool, patch: int, grid: int, both: bool
) -> tuple[_Template, tuple[int, ...]]:
    """The input and the stem; also the nodes of the first of two stem outputs (the template's are the second's)."""
    layout = _Layout()
    start = layout.add("", ops.single(Primitive.input), [])
    conv, bn, C, half = Primitive.conv, Primitive.bn, ops.C, ops.HALF
    if vit:
        embedding = layout.add("", ops.chain([(conv, "stem0.weight", (C, 3, patch, patch))]), start)
        encoding = Part((Primitive.pos_enc,), ("pos_enc.weight",), ((1, C, grid, grid),), (), (0,))
        first = second = layout.join(ops.SUM, [embedding, layout.add("", encoding, [])])
    elif stem_type == 0:
        nodes = [(conv, "0.weight", (C, 3, ks, ks)), (bn, "1.weight", (C,))]
        first = layout.add("stem.", ops.chain(nodes if norm else nodes[:1]), start)
        if pool:
            first = layout.add("", ops.chain([(Primitive.max_pool, "", (1, 1, 3, 3))]), first)
        second = first
    else:
        nodes = [
            (conv, "0.weight", (half, 3, ks, ks)),
            (bn, "1.weight", (half,)),
            (conv, "3.weight", (C, half, 3, 3)),
            (bn, "4.weight", (C,)),
        ]
        first = second = layout.add("stem0.", ops.chain(nodes if norm else nodes[::2]), start)
        if both:
            nodes = [(conv, "1.weight", (C, C, 3, 3)), (bn, "2.weight", (C,))]
            second = layout.add("stem1.", ops.chain(nodes if norm else nodes[:1]), first)
    return _finish(layout, second), tuple(first)


@lru_cache(maxsize=4096)
def _head(glob_avg: bool, sizes: tuple[tuple[int, int], ...]) -> Part:
    nodes: list[tuple[Primitive, str, tuple[ops.Size, ...]]] = []
    if glob_avg:
        nodes.append((Primitive.glob_avg, "", ()))
    for i, (n_in, n_out) in enumerate(sizes):  # Linear, ReLU and dropout per layer: indices 0, 3, 6, ...
        nodes.append((Primitive.conv, f"classifier.{3 * i}.weight", (n_out, n_in)))
        nodes.append((Primitive.bias, f"classifier.{3 * i}.bias", (n_out,)))
    return ops.chain(nodes)


def build_structure(architecture: Architecture, scaling: Scaling = CIFAR) -> Structure:
    """Nodes and edges of an architecture's graph, in topological order: stem, cells one after another, classifier.

    Args:
        architecture: the network.
        scaling: its sizes; they do not change nodes and edges.

    Raises:
        InvalidGraphError: the architecture's output is disconnected.
    """
    wiring = wire(architecture, scaling.channels, scaling.large)
    kept = kept_products(architecture, wiring.routes)
    two = architecture.two_stems
    norm = architecture.norm is not None
    stem, first = _stem(
        architecture.is_vit, architecture.stem_type, architecture.ks, architecture.stem_pool, norm,
        scaling.patch, scaling.patch_grid, wiring.stems[1],
    )  # fmt: skip
    primitives, edges = [stem.primitive], [stem.inner]
    links: list[tuple[int, int]] = []
    outputs: dict[int, Sequence[int]] = {-2: first if two else stem.outputs, -1: stem.outputs}
    n = len(stem.primitive)
    templates: dict[object, _Template] = {}
    cells = []
    for cell in wiring.cells:
        i = cell.index
        key = (cell.reduction, id(cell.route), cell.halve_first, kept[i], i == 0 and not two)
        template = templates.get(key)
        if template is None:
            template = templates[key] = _cell_template(architecture, cell, kept[i], i == 0 and not two)
        before, previous = outputs.get(i - 2, ()), outputs.get(i - 1, ())
        for sources, targets in zip((before, previous), template.outer, strict=True):
            links += [(source, target + n) for target in targets for source in sources]
        primitives.append(template.primitive)
        edges.append(template.inner + n)
        outputs[i] = [
            node for local in template.outputs
            for node in ((local + n,) if local >= 0 else before if local == _S0 else previous)
        ]  # fmt: skip
        n += len(template.primitive)
        cells.append((cell, template.pieces))
    sizes = scaling.classifier_sizes(architecture, wiring.features)
    head = _head(architecture.glob_avg, tuple(sizes))
    primitives.append(np.array(head.primitives, dtype=np.uint8))
    links += [(source, n) for source in outputs[architecture.n_cells - 1]]
    links += [(source + n, target + n) for source, target in head.edges if source != INPUT]
    edges.append(np.array(links, dtype=np.int32))
    return Structure(
        primitive=np.concatenate(primitives),
        edges=np.concatenate(edges),
        stem=stem.pieces,
        cells=tuple(cells),
        head=(("", head, 0),),
        wiring=wiring,
    )


def build_graph(
    architecture: Architecture,
    channels: int = 32,
    fc_dim: int | None = None,
    num_classes: int = 10,
    image_size: int = 32,
    imagenet_stride: int = 4,
    name: str = "",
) -> Graph:
    """The graph of an architecture.

    Args:
        architecture: the network.
        channels: width C.
        fc_dim: width of the classifier's hidden layers; None for the architecture's own.
        num_classes: number of classes.
        image_size: in pixels.
        imagenet_stride: stride of the simple stem on large images.
        name: of the graph, for messages.

    Raises:
        InvalidGraphError: the architecture's output is disconnected by `none`.
        ConfigError: a size is out of range.
    """
    return scaled_graph(architecture, Scaling(channels, fc_dim, num_classes, image_size, imagenet_stride), name)


def scaled_graph(architecture: Architecture, scaling: Scaling, name: str = "") -> Graph:
    """`build_graph` with its sizes in one object."""
    structure = build_structure(architecture, scaling)
    names: list[str] = []
    shapes = []
    for prefix, pieces, widths in _placed(structure):
        for piece, part, which in pieces:
            path = prefix + piece
            names += [path + name if name else "" for name in part.names]
            shapes.append(part.coefficients @ np.array([2, widths[0], widths[1 + which]]) // 2)
    shape = np.concatenate(shapes).astype(np.int32)
    return Graph(structure.primitive, structure.edges, shape, tuple(names), name)


def _placed(structure: Structure) -> Iterator[tuple[str, tuple[Piece, ...], tuple[int, int, int]]]:
    """Pieces with the prefix of their place and the widths of: it, its first input, its second input."""
    wiring = structure.wiring
    yield "", structure.stem, (wiring.stem_channels, 0, 0)
    for cell, pieces in structure.cells:
        yield f"cells.{cell.index}.", pieces, (cell.channels, *cell.channels_in)
    yield "", structure.head, (0, 0, 0)
