"""Where the graphs that the released hypernetworks were trained with differ from the right ones.

The reference implementation (`ghn3` of Knyazev et al., 2023) walks the autograd graph backwards and
recognises operations by the names of their gradient functions. What it sees decides what the
released checkpoints know, and their predictions depend on it. Each quirk is one function below,
with its reason and the models it concerns; `ghn.trace(..., reference_compatible=False)` leaves all
of them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ghn.graph.graph import Graph
from ghn.graph.primitives import Primitive
from ghn.tracing.dataflow import Operation


def adapt_operations(operations: Sequence[Operation]) -> list[Operation]:
    """The record of a forward pass as the reference sees it; the operations themselves are left
    alone.
    """
    return [_hide_fused_attention(operation) for operation in operations]


def adapt_graph(graph: Graph) -> Graph:
    """The reduced graph as the reference has it."""
    return _pool_before_convolutional_head(graph)


def _hide_fused_attention(operation: Operation) -> Operation:
    """The attention of `nn.MultiheadAttention` has no node, unless its weights are asked for.

    Reason: the reference takes a softmax in the autograd graph for the node of an attention, and
    the fused kernel that recent PyTorch uses there is one step. Networks that write their attention
    themselves keep their nodes, as the networks of DeepNets-1M do, which the hypernetworks were
    trained on. Models: ViT.
    """
    if operation.kind != "fused_msa":
        return operation
    return Operation("junction", operation.inputs)


def _pool_before_convolutional_head(graph: Graph) -> Graph:
    """A global pooling that ends the network, after a 1 x 1 convolution as the classifier, comes
    before it.

    Reason: DeepNets-1M heads pool first, and the layer at the end is what the reference predicts as
    the class head.
    Models: SqueezeNet.
    """
    n = graph.n_nodes
    pool, bias, weight = n - 1, n - 2, n - 3
    chain = {(weight, bias), (bias, pool)}
    edges = [(int(i), int(j)) for i, j in graph.edges]
    end = {(i, j) for i, j in edges if i in (weight, bias) or j in (bias, pool)}
    kinds = [Primitive.conv, Primitive.bias, Primitive.glob_avg]
    if n < 4 or end != chain or graph.primitive[weight:].tolist() != kinds:
        return graph
    if graph.shape[weight, 2:].tolist() != [1, 1]:
        return graph
    # the nodes move, the edges of the chain stay where they are
    new = [*range(weight), pool, weight, bias]
    return replace(
        graph,
        primitive=graph.primitive[new],
        edges=np.asarray(edges, dtype=np.int32),
        shape=graph.shape[new],
        param=tuple(graph.param[i] for i in new),
    )
