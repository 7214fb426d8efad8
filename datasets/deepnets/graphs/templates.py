"""Pieces of graphs as templates: a cell, a stem, a classifier layer, laid out once and stamped
wherever they occur.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import cache, lru_cache

from datasets.deepnets.graphs.layout import INPUT_0, INPUT_1, Layout, Template
from datasets.deepnets.graphs.squeeze_quirk import ZEROS
from datasets.deepnets.space import parts as ops
from datasets.deepnets.space.architecture import Edges
from datasets.deepnets.space.parts import Part
from datasets.deepnets.space.wiring import Route
from ghn.graph import Primitive

_REMEMBERED = 4096
"""Templates of cells that are kept for the next architecture: half of all cells are among the
common ones.
"""


class Inputs(IntEnum):
    """How the two inputs of a cell are related.

    The reference drops sums of a single input in two passes: a sum of a tensor with itself goes in
    the first, a sum that then has a single input in the second; a third in a row stays, as a sum
    with one edge.
    """

    distinct = 0
    one_tensor = 1
    same_nodes = 2


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
