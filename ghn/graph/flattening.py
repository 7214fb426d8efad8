"""Linear layers that read whole feature maps, flattened: the classifiers of AlexNet and VGG, and of
networks without global average pooling.
"""

from __future__ import annotations

import math

from ghn.graph.graph import Graph
from ghn.graph.primitives import Primitive


def flattened_inputs(graph: Graph) -> dict[int, tuple[int, int]]:
    """For each linear layer whose inputs are flattened square maps its node, with the number of
    maps and their side in pixels.

    The graph has no sizes of maps. They follow from the columns of the layer's weight and the
    channels that reach it, those of the nearest parameters on the way from the input: columns are
    channels times the square of the side. A layer that reads the network's input is left out, and
    so is one whose columns are no such product.

    Layers over a square number of merged tokens cannot be told from these, and are found too: the
    patch merging of Swin V2, whose columns are four patches times channels (Swin has a norm of as
    many channels before it). Trained hypernetworks have learned with them among the layers, so
    what is found must stay as it is.
    """
    linear = [
        node
        for node, (rows, columns, height, _) in enumerate(graph.shape.tolist())
        if rows and columns and not height and graph.primitive[node] == Primitive.conv
    ]
    if not linear:
        return {}
    sources: dict[int, list[int]] = {}
    for source, target in graph.edges.tolist():
        sources.setdefault(target, []).append(source)
    found: dict[int, tuple[int, int]] = {}
    known: dict[int, int] = {}
    for node in linear:
        columns = int(graph.shape[node, 1])
        channels = _channels(graph, sources, known, sources.get(node, [])[:1])
        if 0 < channels < columns and columns % channels == 0:
            side = math.isqrt(columns // channels)
            if side * side * channels == columns:
                found[node] = channels, side
    return found


def _channels(
    graph: Graph, sources: dict[int, list[int]], known: dict[int, int], nodes: list[int]
) -> int:
    """Channels of what `nodes` put out together; 0 if one of them is not known."""
    waiting = list(nodes)
    while waiting:
        node = waiting[-1]
        primitive, rows = int(graph.primitive[node]), int(graph.shape[node, 0])
        if primitive in _WEIGHTED and rows:
            known[node] = rows // 3 if primitive == Primitive.msa else rows
        elif node not in known:
            before = sources.get(node, [])
            passed = before if primitive == Primitive.concat else before[:1]
            if unknown := [source for source in passed if source not in known]:
                waiting += unknown
                continue
            known[node] = _together(known, passed)
        waiting.pop()
    return _together(known, nodes)


def _together(known: dict[int, int], nodes: list[int]) -> int:
    total = [known[node] for node in nodes]
    return sum(total) if all(total) else 0


_WEIGHTED = frozenset(
    {
        Primitive.sep_conv,
        Primitive.dil_conv,
        Primitive.conv,
        Primitive.msa,
        Primitive.bias,
        Primitive.bn,
        Primitive.ln,
    }
)
"""Operations whose parameter has a row for each channel that they put out."""
