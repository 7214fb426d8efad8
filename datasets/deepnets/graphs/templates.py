"""Pieces of graphs as templates: a cell, a stem, a classifier layer, laid out once and stamped
wherever they occur.

An edge is one integer, target * 2^32 + source: edges sort by target, and a template moves by adding
to all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from functools import cache, cached_property, lru_cache
from itertools import chain
from typing import overload

import numpy as np

from datasets.deepnets.graphs import parts as ops
from datasets.deepnets.graphs.parts import Part
from datasets.deepnets.graphs.squeeze_quirk import ZEROS
from datasets.deepnets.space.architecture import Edges
from datasets.deepnets.space.wiring import Route
from ghn.graph import Primitive

INPUT_0, INPUT_1 = -1, -2
"""Nodes in a template that stand for its two inputs."""

TARGET = 32
"""An edge's target is this many bits up."""

STEP = (1 << TARGET) + 1
"""What an edge grows by when both of its nodes move by one."""

_REMEMBERED = 4096
"""Templates of cells that are kept for the next architecture: half of all cells are among the
common ones.
"""


class Inputs(IntEnum):
    """How the two inputs of a cell are related.

    The reference drops sums of a single input in two passes: a sum of a tensor with itself goes in
    the first, a sum
    that then has a single input in the second; a third in a row stays, as a sum with one edge.
    """

    distinct = 0
    one_tensor = 1
    same_nodes = 2


class Layout:
    """Nodes and edges under construction.

    A value is the list of nodes that whatever reads it must be joined to: mostly one, but more
    where the reference
    leaves out an operation with several inputs. Two values are one tensor if they are the same
    list.

    Attributes:
        prefixes: of the names in each piece.
        parts: the pieces.
        kinds: of the nodes.
        inner: edges among the nodes.
        readers: edges from input 0 and from input 1, without their source.
    """

    def __init__(self) -> None:
        self.prefixes: list[str] = []
        self.parts: list[Part] = []
        self.kinds: list[int] = []
        self.inner: list[int] = []
        self.readers: tuple[list[int], list[int]] = ([], [])

    def add(self, prefix: str, part: Part, value: list[int]) -> list[int]:
        """Appends `part` behind `value`; returns its output value."""
        offset = len(self.kinds)
        if part.inner:
            shift = offset * STEP
            self.inner += [edge + shift for edge in part.inner]
        for target in part.readers:
            self._join(value, target + offset)
        self._append(prefix, part)
        outputs: list[int] = []
        for node in part.outputs:
            outputs += value if node == ops.INPUT else [node + offset]
        return outputs

    def _append(self, prefix: str, part: Part) -> None:
        self.prefixes.append(prefix)
        self.parts.append(part)
        self.kinds += part.kinds

    def _join(self, sources: Sequence[int], target: int) -> None:
        edge = target << TARGET
        for source in sources:
            if source >= 0:
                self.inner.append(edge + source)
            else:
                self.readers[INPUT_0 - source].append(edge)

    def join(self, part: Part, values: Sequence[list[int]]) -> list[int]:
        """A sum or concat of `values`; left out, as in the reference, where it has only one
        input.
        """
        first = values[0]
        if len(set(map(id, values))) == 1:
            return first
        nodes = list(dict.fromkeys(chain.from_iterable(values)))
        return first if len(nodes) == 1 else self.node(part, nodes)

    def node(self, part: Part, sources: Sequence[int]) -> list[int]:
        """A single node that reads `sources`."""
        node = len(self.kinds)
        self._join(sources, node)
        self._append("", part)
        return [node]


class Template:
    """A finished layout, in few objects: thousands of templates live on, and garbage collection
    looks at each object.

    Attributes:
        n_nodes: number of its nodes n.
        kinds: (n,) uint16, of its nodes.
        inner: (E,) int64, edges among them.
        readers: edges from input 0 and from input 1, without their source.
        outputs: the nodes of its output; `INPUT_0` and `INPUT_1` where an input is passed through.
    """

    def __init__(self, layout: Layout, outputs: Sequence[int]) -> None:
        self.prefixes, self.parts = tuple(layout.prefixes), tuple(layout.parts)
        self.n_nodes = len(layout.kinds)
        self.kinds = np.array(layout.kinds, dtype=np.uint16)
        self.inner = np.array(layout.inner, dtype=np.int64)
        self.readers = tuple(layout.readers[0]), tuple(layout.readers[1])
        self.outputs = tuple(outputs)

    @cached_property
    def names(self) -> list[str]:
        """Parameters' names within the template; "" where a node has none."""
        pieces = zip(self.prefixes, self.parts, strict=True)
        return [prefix + name if name else "" for prefix, part in pieces for name in part.names]


class ParameterNames(Sequence[str]):
    """The parameters' names of templates one after another, put together when first asked for;
    pickled as a tuple.

    Args:
        prefixes: what the names of each template begin with.
        templates: the templates.
    """

    def __init__(self, prefixes: Sequence[str], templates: Sequence[Template]) -> None:
        self._prefixes, self._templates = prefixes, templates

    @cached_property
    def _names(self) -> tuple[str, ...]:
        stamped = zip(self._prefixes, self._templates, strict=True)
        return tuple(
            [
                prefix + name if name else ""
                for prefix, template in stamped
                for name in template.names
            ]
        )

    def __len__(self) -> int:
        return sum([template.n_nodes for template in self._templates])

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self._names[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._names == tuple(other)

    def __hash__(self) -> int:
        return hash(self._names)

    def __repr__(self) -> str:
        return repr(self._names)

    def __reduce__(self) -> tuple[type[tuple[str, ...]], tuple[tuple[str, ...]]]:
        return tuple, (self._names,)


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
        halve_first: whether a convolution brings the first input to the resolution of the second;
            needs `preproc`.
        strided: whether operations that read the inputs halve the resolution.
        kept: the cell's products that are nodes.
        inputs: how its two inputs are related; matters without `preproc` only.
    """
    layout = Layout()
    states: list[list[int] | None] = [[INPUT_0], [INPUT_1]]
    if preproc:
        for i in (0, 1):
            if route.inputs[i]:
                part = (
                    ops.factorized_reduce(norm, True)
                    if i == 0 and halve_first
                    else ops.preprocess(norm, i)
                )
                states[i] = layout.add(f"preprocess{i}.", part, [INPUT_1 if i else INPUT_0])
    elif inputs is not Inputs.distinct:
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


def _concat(
    layout: Layout, states: Sequence[list[int] | None], route: Route, zeros_are_node: bool
) -> list[int]:
    zeros: list[int] = []
    if route.missing:
        stand_in = states[route.source]
        assert stand_in is not None
        # A copy: the zeros are another tensor than the state they are made from, though joined
        # to the same nodes.
        zeros = layout.node(ops.ZERO_PRODUCT, stand_in) if zeros_are_node else list(stand_in)
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
    """The input and the stem; also the nodes of the first of two stem outputs (the template's are
    the second's).
    """
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
