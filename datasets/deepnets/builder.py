"""Graphs of DeepNets-1M straight from the architecture, without instantiating or running a network.

A cell's piece of graph depends on few things (normal or reduction, which inputs exist, ...), so it is laid out once as
a template of arrays and stamped for every cell with an offset: a graph costs a few array operations per cell instead of
Python work per node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from datasets.deepnets import operations as ops
from datasets.deepnets.operations import INPUT, Part
from datasets.deepnets.scaling import Scaling
from datasets.deepnets.search_space import Architecture
from datasets.deepnets.squeeze_quirk import ZEROS, kept_products
from datasets.deepnets.wiring import Cell, Route, wire
from ghn.graph import Graph, Primitive

CIFAR = Scaling()
"""The sizes at which the published statistics are taken."""

_S0, _S1 = -1, -2
"""Sources in a template that stand for the cell's two inputs."""


class _Inputs(Enum):
    """How the two inputs of a cell are related.

    The reference drops sums of a single input in two passes: a sum of a tensor with itself goes in the first, a sum
    that then has a single input in the second; a third in a row stays, as a sum with one edge.
    """

    distinct = 0
    one_tensor = 1
    same_nodes = 2


Piece = tuple[str, Part]
"""Prefix of the names, nodes."""


@dataclass
class _Layout:
    """Nodes and edges under construction.

    A value is the list of nodes that whatever reads it must be joined to: mostly one, but more where the reference
    leaves out an operation with several inputs. Two values are one tensor if they are the same list.
    """

    pieces: list[Piece] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)
    n_nodes: int = 0

    def add(self, prefix: str, part: Part, value: list[int]) -> list[int]:
        """Appends `part` behind `value`; returns its output value."""
        offset = self.n_nodes
        for source, target in part.edges:
            if source == INPUT:
                self.edges += [(node, target + offset) for node in value]
            else:
                self.edges.append((source + offset, target + offset))
        self.pieces.append((prefix, part))
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
        return self.node(part, nodes)

    def node(self, part: Part, sources: Sequence[int]) -> list[int]:
        """A single node that reads `sources`."""
        node = self.n_nodes
        self.edges += [(source, node) for source in sources]
        self.pieces.append(("", part))
        self.n_nodes += 1
        return [node]


class _Template:
    """A finished layout as arrays.

    Attributes:
        kind: (n,) kinds of its nodes.
        inner: (e, 2) edges among them.
        readers: the nodes that read input 0, and those that read input 1.
        outputs: the nodes of its output; `_S0` and `_S1` where an input is passed through.
    """

    def __init__(self, layout: _Layout, output: Sequence[int]) -> None:
        edges = layout.edges
        self.pieces = layout.pieces
        self.kind = np.array([kind for _, part in layout.pieces for kind in part.kinds], dtype=np.uint16)
        self.inner = np.array([edge for edge in edges if edge[0] >= 0], dtype=np.int32).reshape(-1, 2)
        self.readers = (
            [target for source, target in edges if source == _S0],
            [target for source, target in edges if source == _S1],
        )
        self.outputs = list(output)

    @cached_property
    def names(self) -> list[str]:
        """Parameters' names within the cell; "" where a node has none."""
        return [prefix + name if name else "" for prefix, part in self.pieces for name in part.names]


@dataclass(frozen=True, eq=False)
class Structure:
    """A graph whose shapes and names are not written out yet, in segments: stem, live cells, classifier layers.

    Attributes:
        kind: (N,) uint16, see `operations`.
        edges: (E, 2) int32, sorted by target, then source.
        sizes: (S,) numbers of nodes of the segments.
        widths: (S, 3) int32, their widths C, P0 and P1.
        segments: prefix of the names and template of each segment.
    """

    kind: NDArray[np.uint16]
    edges: NDArray[np.int32]
    sizes: list[int]
    widths: list[tuple[int, int, int]]
    segments: list[tuple[str, _Template]]

    @property
    def primitive(self) -> NDArray[np.uint8]:
        """(N,) uint8."""
        return ops.primitives_of(self.kind)

    @property
    def shape(self) -> NDArray[np.int32]:
        """(N, 4) int32."""
        return ops.shapes_of(self.kind, np.repeat(np.array(self.widths, dtype=np.int32), self.sizes, axis=0))

    @property
    def param(self) -> tuple[str, ...]:
        """(N,) names."""
        return tuple(prefix + name if name else "" for prefix, template in self.segments for name in template.names)


def _cell_template(architecture: Architecture, cell: Cell, kept: frozenset[int], inputs: _Inputs) -> _Template:
    """Lays out a cell.

    Args:
        architecture: the network.
        cell: one of the cells that share this template.
        kept: the cell's products that are nodes.
        inputs: how its two inputs are related.
    """
    layout, route, norm = _Layout(), cell.route, architecture.norm is not None
    states: list[list[int] | None] = [[_S0], [_S1]]
    if architecture.preproc:
        for i in (0, 1):
            if route.inputs[i]:
                halve = i == 0 and cell.halve_first
                part = ops.factorized_reduce(norm, True) if halve else ops.preprocess(norm, i)
                states[i] = layout.add(f"preprocess{i}.", part, [_S0 if i == 0 else _S1])
    elif inputs is not _Inputs.distinct and not cell.halve_first:
        states[1] = states[0] if inputs is _Inputs.one_tensor else [_S0]
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
    return _Template(layout, output)


def _concat(layout: _Layout, states: Sequence[list[int] | None], route: Route, zeros_are_node: bool) -> list[int]:
    stand_in = states[route.source]
    assert stand_in is not None
    # A copy: the zeros are another tensor than the state they are made from, though joined to the same nodes.
    zeros = layout.node(ops.ZERO_PRODUCT, stand_in) if route.missing and zeros_are_node else list(stand_in)
    values = []
    for state in route.concat:
        value = zeros if state in route.missing else states[state]
        assert value is not None
        values.append(value)
    return layout.join(ops.CONCAT, values)


@cache
def _stem(
    vit: bool, stem_type: int, ks: int, pool: bool, norm: bool, patch: int, grid: int, both: bool
) -> tuple[_Template, list[int]]:
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
    return _Template(layout, second), first


@cache
def _head(glob_avg: bool, index: int) -> _Template:
    layout = _Layout()
    value = [_S0]
    if glob_avg:
        value = layout.node(ops.single(Primitive.glob_avg), value)
    return _Template(layout, layout.add("", ops.classifier_layer(index), value))


class _Assembly:
    """Templates stamped one after another."""

    def __init__(self) -> None:
        self.n_nodes = 0
        self.kinds: list[NDArray[np.uint16]] = []
        self.edges: list[NDArray[np.int32]] = []
        self.links: list[tuple[int, int]] = []
        self.sizes: list[int] = []
        self.widths: list[tuple[int, int, int]] = []
        self.segments: list[tuple[str, _Template]] = []

    def stamp(
        self, template: _Template, prefix: str, widths: tuple[int, int, int], before: list[int], previous: list[int]
    ) -> list[int]:
        """Appends a template that reads the values `before` (input 0) and `previous` (input 1); its output value."""
        n = self.n_nodes
        for sources, readers in ((before, template.readers[0]), (previous, template.readers[1])):
            self.links += [(source, target + n) for target in readers for source in sources]
        self.kinds.append(template.kind)
        self.edges.append(template.inner + n)
        self.sizes.append(len(template.kind))
        self.widths.append(widths)
        self.segments.append((prefix, template))
        self.n_nodes += len(template.kind)
        output: list[int] = []
        for node in template.outputs:
            output += [node + n] if node >= 0 else before if node == _S0 else previous
        return output

    def finish(self) -> Structure:
        edges = np.concatenate([*self.edges, np.array(self.links, dtype=np.int32).reshape(-1, 2)])
        key = np.unique(edges[:, 1].astype(np.int64) << 32 | edges[:, 0])
        edges = np.stack([key & 0xFFFFFFFF, key >> 32], axis=1).astype(np.int32)
        return Structure(np.concatenate(self.kinds), edges, self.sizes, self.widths, self.segments)


def build_structure(
    architecture: Architecture, scaling: Scaling = CIFAR, kept: Sequence[frozenset[int]] | None = None
) -> Structure:
    """Nodes and edges of an architecture's graph, in topological order: stem, cells one after another, classifier.

    Args:
        architecture: the network.
        scaling: its sizes; they do not change nodes and edges.
        kept: for each cell the products that are nodes; by default those of the reference (`squeeze_quirk`).

    Raises:
        InvalidGraphError: the architecture's output is disconnected.
    """
    wiring = wire(architecture, scaling.channels, scaling.large)
    kept = kept_products(architecture, wiring.routes) if kept is None else kept
    one_input = not architecture.two_stems
    assembly = _Assembly()
    stem, first = _stem(
        architecture.is_vit, architecture.stem_type, architecture.ks, architecture.stem_pool,
        architecture.norm is not None, scaling.patch, scaling.patch_grid, wiring.stems[1],
    )  # fmt: skip
    last = assembly.stamp(stem, "", (wiring.stem_channels, 0, 0), [], [])
    outputs: dict[int, list[int]] = {-2: last if one_input else first, -1: last}
    passed: dict[int, int] = {}  # for outputs that are an input passed through: how many cells in a row did so
    templates: dict[object, _Template] = {}
    for cell in wiring.cells:
        i = cell.index
        # Dead cells have no output; none of their readers is alive either.
        before, previous = outputs.get(i - 2, []), outputs.get(i - 1, [])
        inputs = _Inputs.distinct
        if i == 0 and one_input:
            inputs = _Inputs.one_tensor
        elif before == previous and passed.get(i - 1) == 1:
            inputs = _Inputs.same_nodes
        key = (cell.reduction, id(cell.route), cell.halve_first, kept[i], inputs)
        if key not in templates:
            templates[key] = _cell_template(architecture, cell, kept[i], inputs)
        widths = (cell.channels, *cell.channels_in)
        outputs[i] = assembly.stamp(templates[key], f"cells.{i}.", widths, before, previous)
        if outputs[i] == before:
            passed[i] = passed.get(i - 1, 0) + 1
    value = outputs[architecture.n_cells - 1]
    for i, (n_in, n_out) in enumerate(scaling.classifier_sizes(architecture, wiring.features)):
        value = assembly.stamp(_head(architecture.glob_avg and i == 0, i), "", (n_out, n_in, 0), value, [])
    return assembly.finish()


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
    return Graph(structure.primitive, structure.edges, structure.shape, structure.param, name)
