"""Pieces of graphs as templates: a cell, a stem, a classifier layer, laid out once and stamped wherever they occur.

An edge is one integer, target * 2^32 + source: edges sort by target, and a template moves by adding to all of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from enum import IntEnum
from functools import cache, cached_property, lru_cache

from datasets.deepnets import operations as ops
from datasets.deepnets.operations import Part
from datasets.deepnets.search_space import Edges
from datasets.deepnets.squeeze_quirk import ZEROS
from datasets.deepnets.wiring import Route
from ghn.graph import Primitive

INPUT_0, INPUT_1 = -1, -2
"""Nodes in a template that stand for its two inputs."""

TARGET = 32
"""An edge's target is this many bits up."""

STEP = (1 << TARGET) + 1
"""What an edge grows by when both of its nodes move by one."""

_REMEMBERED = 4096
"""Templates of cells that are kept for the next architecture: half of all cells are among the common ones."""


class Inputs(IntEnum):
    """How the two inputs of a cell are related.

    The reference drops sums of a single input in two passes: a sum of a tensor with itself goes in the first, a sum
    that then has a single input in the second; a third in a row stays, as a sum with one edge.
    """

    distinct = 0
    one_tensor = 1
    same_nodes = 2


class Layout:
    """Nodes and edges under construction.

    A value is the list of nodes that whatever reads it must be joined to: mostly one, but more where the reference
    leaves out an operation with several inputs. Two values are one tensor if they are the same list.

    Attributes:
        pieces: prefix of the names, and nodes.
        inner: edges among the nodes.
        readers: edges from input 0 and from input 1, without their source.
    """

    def __init__(self) -> None:
        self.pieces: list[tuple[str, Part]] = []
        self.inner: list[int] = []
        self.readers: tuple[list[int], list[int]] = ([], [])
        self.n_nodes = 0

    def add(self, prefix: str, part: Part, value: list[int]) -> list[int]:
        """Appends `part` behind `value`; returns its output value."""
        offset = self.n_nodes
        shift = offset * STEP
        self.inner += [edge + shift for edge in part.inner]
        for target in part.readers:
            self._join(value, target + offset)
        self.pieces.append((prefix, part))
        self.n_nodes += part.n_nodes
        outputs: list[int] = []
        for node in part.outputs:
            outputs += value if node == ops.INPUT else [node + offset]
        return outputs

    def _join(self, sources: Sequence[int], target: int) -> None:
        edge = target << TARGET
        for source in sources:
            if source >= 0:
                self.inner.append(edge + source)
            else:
                self.readers[INPUT_0 - source].append(edge)

    def join(self, part: Part, values: Sequence[list[int]]) -> list[int]:
        """A sum or concat of `values`; left out, as in the reference, where it has only one input."""
        tensors = list({id(value): value for value in values}.values())
        nodes = list(dict.fromkeys(node for value in tensors for node in value))
        if len(tensors) == 1 or len(nodes) == 1:
            return tensors[0]
        return self.node(part, nodes)

    def node(self, part: Part, sources: Sequence[int]) -> list[int]:
        """A single node that reads `sources`."""
        node = self.n_nodes
        self._join(sources, node)
        self.pieces.append(("", part))
        self.n_nodes += 1
        return [node]


class Template:
    """A finished layout, in few objects: thousands of templates live on, and garbage collection looks at each object.

    Attributes:
        n_nodes: number of its nodes n.
        kinds: of its nodes.
        inner: edges among them.
        readers: edges from input 0 and from input 1, without their source.
        outputs: the nodes of its output; `INPUT_0` and `INPUT_1` where an input is passed through.
    """

    def __init__(self, layout: Layout, outputs: Sequence[int]) -> None:
        self.prefixes = tuple([prefix for prefix, _ in layout.pieces])
        self.parts = tuple([part for _, part in layout.pieces])
        self.n_nodes = layout.n_nodes
        self.kinds = array("H", [kind for part in self.parts for kind in part.kinds])
        self.inner = array("q", layout.inner)
        self.readers = array("q", layout.readers[0]), array("q", layout.readers[1])
        self.outputs = tuple(outputs)

    @cached_property
    def names(self) -> list[str]:
        """Parameters' names within the template; "" where a node has none."""
        pieces = zip(self.prefixes, self.parts, strict=True)
        return [prefix + name if name else "" for prefix, part in pieces for name in part.names]


@lru_cache(_REMEMBERED)
def cell(
    edges: Edges,
    route: Route,
    preproc: bool,
    norm: bool,
    halve_first: bool,
    strided: bool,
    kept: frozenset[int],
    inputs: Inputs,
) -> Template:
    """Lays out a cell.

    Args:
        edges: its operations.
        route: how values flow.
        preproc: whether 1x1 convolutions bring its inputs to its width.
        norm: whether there is batch norm.
        halve_first: whether the first input is brought to the resolution of the second.
        strided: whether operations that read the inputs halve the resolution.
        kept: the cell's products that are nodes.
        inputs: how its two inputs are related.
    """
    layout = Layout()
    states: list[list[int] | None] = [[INPUT_0], [INPUT_1]]
    if preproc:
        for i in (0, 1):
            if route.inputs[i]:
                part = ops.factorized_reduce(norm, True) if i == 0 and halve_first else ops.preprocess(norm, i)
                states[i] = layout.add(f"preprocess{i}.", part, [INPUT_1 if i else INPUT_0])
    elif inputs is not Inputs.distinct and not halve_first:
        states[1] = states[0] if inputs is Inputs.one_tensor else [INPUT_0]
    for terms in route.terms:
        values = []
        for k in terms:
            if k not in route.used:
                continue
            name, source = edges[k]
            value = states[source]
            assert value is not None
            nodes = ops.operation(name, norm, strided and source < 2, k in kept)
            values.append(value if nodes is None else layout.add(f"_ops.{k}.", nodes, value))
        states.append(layout.join(ops.SUM, values) if values else None)
    return Template(layout, _concat(layout, states, route, ZEROS in kept))


def _concat(layout: Layout, states: Sequence[list[int] | None], route: Route, zeros_are_node: bool) -> list[int]:
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
def stem(
    vit: bool, stem_type: int, ks: int, pool: bool, norm: bool, patch: int, grid: int, both: bool
) -> tuple[Template, list[int]]:
    """The input and the stem; also the nodes of the first of two stem outputs (the template's are the second's)."""
    layout = Layout()
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
    return Template(layout, second), first


@cache
def classifier_layer(glob_avg: bool, index: int) -> Template:
    """Layer `index` of the classifier, behind global average pooling or not."""
    layout = Layout()
    value = [INPUT_0]
    if glob_avg:
        value = layout.node(ops.single(Primitive.glob_avg), value)
    return Template(layout, layout.add("", ops.classifier_layer(index), value))
