"""From the record of a forward pass to the graph: nodes are kept by primitive, everything else is
bridged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ghn.graph.graph import Graph
from ghn.graph.primitives import Primitive
from ghn.tracing import quirks
from ghn.tracing.dataflow import Operation

_PRIMITIVE = {primitive.name: primitive for primitive in Primitive} | {"fused_msa": Primitive.msa}


def to_graph(
    operations: Sequence[Operation],
    outputs: Sequence[int],
    name: str,
    reference_compatible: bool,
) -> Graph:
    """`reduce`, with the quirks of the reference or without, and a linear head."""
    if reference_compatible:
        operations = quirks.adapt_operations(operations)
    graph = reduce(operations, outputs, name)
    if reference_compatible:
        graph = quirks.adapt_graph(graph)
    return with_linear_head(graph)


def reduce(operations: Sequence[Operation], outputs: Sequence[int], name: str = "") -> Graph:
    """The graph of the operations that the outputs depend on.

    Activations, reshapes and junctions are bridged; a sum or a concat stays only with two or more
    different inputs. Nodes keep the order of the forward pass, except that weight and bias of the
    class head come last.

    Args:
        operations: in the order of the forward pass; operation 0 is the input.
        outputs: the operations that the network's outputs come from, the main output first.
        name: of the graph.
    """
    needed = ancestors(operations, outputs)
    sources: list[tuple[int, ...]] = []  # per operation, the kept operations its result comes from
    kept: list[int] = []
    incoming: dict[int, tuple[int, ...]] = {}
    for index, operation in enumerate(operations):
        inputs = tuple(dict.fromkeys(source for i in operation.inputs for source in sources[i]))
        joins = operation.kind in ("sum", "concat")
        keep = operation.kind in _PRIMITIVE and needed[index] and (not joins or len(inputs) > 1)
        if keep or index == 0:
            kept.append(index)
            incoming[index] = inputs
        sources.append((index,) if keep or index == 0 else inputs)

    order = _head_last(operations, kept, incoming, sources[outputs[0]] if outputs else ())
    position = {index: node for node, index in enumerate(order)}
    edges = [(position[i], position[j]) for j in order for i in incoming[j]]
    shape = np.zeros((len(order), 4), dtype=np.int32)
    for node, index in enumerate(order):
        sizes = operations[index].shape
        shape[node, : len(sizes)] = sizes
    return Graph(
        primitive=np.array([_PRIMITIVE[operations[index].kind] for index in order], dtype=np.uint8),
        edges=np.array(edges, dtype=np.int32).reshape(-1, 2),
        shape=shape,
        param=tuple(operations[index].param for index in order),
        name=name,
    )


def with_linear_head(graph: Graph) -> Graph:
    """The graph with a class head that is a 1 x 1 convolution given the shape of the linear layer
    that it amounts to.

    The head is the weight and bias at the end of the graph; the shape tells a hypernetwork to use
    its decoder of class heads. The parameter itself keeps its four dimensions.
    """
    if (
        graph.n_nodes < 2
        or graph.primitive[-2] != Primitive.conv
        or graph.primitive[-1] != Primitive.bias
    ):
        return graph
    if graph.shape[-2, 2:].tolist() != [1, 1]:
        return graph
    shape = graph.shape.copy()
    shape[-2, 2:] = 0
    return replace(graph, shape=shape)


def ancestors(operations: Sequence[Operation], outputs: Sequence[int]) -> list[bool]:
    """Which operations the outputs depend on."""
    needed = [False] * len(operations)
    for output in outputs:
        needed[output] = True
    for index in range(len(operations) - 1, -1, -1):
        if needed[index]:
            for i in operations[index].inputs:
                needed[i] = True
    return needed


def _head_last(
    operations: Sequence[Operation],
    kept: list[int],
    incoming: dict[int, tuple[int, ...]],
    output: tuple[int, ...],
) -> list[int]:
    """`kept` with the layer that makes the main output moved to the end, where the class head is
    looked for.

    The head is the layer whose weight, or weight and bias, nothing but the output follows.
    """
    if len(output) != 1:
        return kept
    head = [output[0]]
    if operations[head[0]].kind == "bias":
        head.insert(0, incoming[head[0]][0])
    if operations[head[0]].kind != "conv":
        return kept
    if any(
        index in head and target not in head
        for target, inputs in incoming.items()
        for index in inputs
    ):
        return kept
    return [index for index in kept if index not in head] + head
