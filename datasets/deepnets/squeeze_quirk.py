"""Which squeeze-and-excitation products are nodes of the published graphs.

A cse operation ends in a product of its input and a gate. The reference makes a node (primitive `cse`) of a product
only if, in the depth-first order in which it walks back from the output, the node three places earlier is a ReLU or a
mean (and no classifier parameter is among the last two); otherwise the product is left out, so that whatever reads it
is joined to both of its factors. Zeros that stand in for a missing state are products too and fall under the same rule
once the network has any cse. Released hypernetworks were trained on such graphs, so we walk in the same order.

The walk needs no network: each operation contributes a fixed string of letters, one per visited node: R for a ReLU, M
for a mean, C for a parameter of the classifier, o for anything else.
"""

from __future__ import annotations

from collections.abc import Sequence

from datasets.deepnets.search_space import Architecture
from datasets.deepnets.wiring import Route

ZEROS = -1
"""Key of the product that makes zeros for missing states."""

Products = list[frozenset[int]]
"""For each cell, the operations (by position, or `ZEROS`) whose product is a node."""

_OUTPUT, _ZEROS, _PRODUCT = -1, -2, -3
_RELU = -3
"""Stands for the cell before the two stems: the ReLU that the second one applies to the first one's output in place."""

_Item = str | tuple[int, int] | tuple[int, int, int]
"""Letters to emit; a value: (cell, state), (cell, _OUTPUT) or (cell, _ZEROS); a product: (cell, _PRODUCT, key)."""


def kept_products(architecture: Architecture, routes: Sequence[Route | None]) -> list[frozenset[int]]:
    """For each cell, the operations (by position, or `ZEROS`) whose product is a node.

    Args:
        architecture: the network.
        routes: how values flow through its live cells (`wiring.live`).
    """
    kept: list[set[int]] = [set() for _ in routes]
    if _has_live_cse(architecture, routes):
        stack: list[_Item] = [(len(routes) - 1, _OUTPUT), _head(architecture)]
        seen: set[_Item] = set()
        last = "ooo"
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                last = (last + item)[-3:]
            elif len(item) == 3:
                if last[0] in "RM" and "C" not in last[1:]:
                    kept[item[0]].add(item[2])
                last = last[1:] + "o"
            elif item not in seen:
                seen.add(item)
                stack += reversed(_behind(architecture, routes, *item))
    return [frozenset(keys) for keys in kept]


def _has_live_cse(architecture: Architecture, routes: Sequence[Route | None]) -> bool:
    if "cse" not in architecture.genotype.operations:
        return False
    halves = {
        reduction: {k for k, (name, _) in enumerate(edges) if name == "cse"}
        for reduction, edges in ((False, architecture.genotype.normal), (True, architecture.genotype.reduce))
    }
    return any(
        route is not None and not route.used.isdisjoint(halves[reduction])
        for reduction, route in zip(architecture.reductions, routes, strict=True)
    )


def _head(architecture: Architecture) -> str:
    # Bias of the last layer; for each layer before it: dropout, ReLU, bias; flattening; average.
    return "C" + "oRC" * (architecture.fc_layers - 1) + ("oM" if architecture.glob_avg else "o")


def _behind(architecture: Architecture, routes: Sequence[Route | None], cell: int, what: int) -> list[_Item]:
    """What the walk meets from a value on, in order."""
    if cell < 0:
        return _stem(architecture, cell)
    route = routes[cell]
    assert route is not None  # dead cells are not reached
    if what == _OUTPUT:
        return ["o", *((cell, _ZEROS if state in route.missing else state) for state in route.concat)]
    if what == _ZEROS:
        return [(cell, _PRODUCT, ZEROS), (cell, route.source)]
    if what < 2:
        return _input(architecture, cell, what)
    terms = route.terms[what - 2]
    items: list[_Item] = ["o"] if len(terms) == 2 else []
    for k in terms:
        items += _operation(architecture, cell, k)
    return items


def _stem(architecture: Architecture, cell: int) -> list[_Item]:
    bn = "oo" if architecture.norm else ""
    if architecture.is_vit:
        return ["oo"]
    if architecture.stem_type == 0:
        return [("o" if architecture.stem_pool else "") + bn + "o"]
    if cell == _RELU:
        return ["R" + bn + "oR" + bn + "o"]
    return [bn + "o" if cell == -1 else "", (_RELU, _OUTPUT)]


def _input(architecture: Architecture, cell: int, which: int) -> list[_Item]:
    source = (cell - 2 + which, _OUTPUT)
    if source[0] < 0 and not architecture.two_stems:
        source = (-1, _OUTPUT)  # both inputs of the first cell are one tensor
    halve = which == 0 and not architecture.is_vit
    halve &= architecture.stem_type == 1 if cell == 0 else architecture.reductions[cell - 1]
    if not architecture.preproc:
        return ["oo", source] if halve else [source]
    bn = "oo" if architecture.norm else ""
    return [bn + "ooR", source, "ooo"] if halve else [bn + "oR", source]


def _operation(architecture: Architecture, cell: int, k: int) -> list[_Item]:
    reduction = architecture.reductions[cell]
    name, state = (architecture.genotype.reduce if reduction else architecture.genotype.normal)[k]
    strided = reduction and state < 2 and not architecture.is_vit
    bn = "oo" if architecture.norm else ""
    value = (cell, state)
    if name == "skip_connect":
        return [bn + "ooR", value, "ooo"] if strided else [value]
    if name == "cse":
        return ["oo" if strided else "", (cell, _PRODUCT, k), value, "oooRoMooo"]
    if name == "msa":
        return ["oooooo", value, "oooooo"]
    if name.endswith("pool_3x3"):
        return ["o", value]
    if name.startswith("sep_conv"):
        return [bn + "ooR" + bn + "ooR", value]
    if name.startswith("dil_conv") or name == "conv_7x1_1x7":
        return [bn + "ooR", value]
    return [bn + "oR", value]


def every_product(architecture: Architecture) -> list[frozenset[int]]:
    """For each cell all its cse operations: what `kept_products` would be without the quirk."""
    genotype = architecture.genotype
    kinds = {
        reduction: frozenset(k for k, (name, _) in enumerate(edges) if name == "cse")
        for reduction, edges in ((False, genotype.normal), (True, genotype.reduce))
    }
    return [kinds[reduction] for reduction in architecture.reductions]
