"""Which squeeze-and-excitation products are nodes of the published graphs.

A cse operation ends in a product of its input and a gate. The reference makes a node (primitive
`cse`) of a product only if, in the depth-first order in which it walks back from the output, the
node three places earlier is a ReLU or a mean (and no classifier parameter is among the last two);
otherwise the product is left out, so that whatever reads it is joined to both of its factors. Zeros
that stand in for a missing state are products too and fall under the same rule once the network has
any cse. Released hypernetworks were trained on such graphs, so we walk in the same order.

This is the one place in `datasets` for what only the reference's code explains. What else differs
from the plain network is part of the published data and stands where it is defined: sums that are
left out (`templates.Inputs`), the stem's ReLU in place (`networks.network`), and the flaws of the
published files (`published.repair`).

The walk needs no network: each operation contributes a fixed string of letters, one per visited
node: R for a ReLU, M for a mean, C for a parameter of the classifier, o for anything else. What it
meets within a cell depends on the kind of cell alone, up to the places where it leaves for the
cells before; so it is written down once per kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from datasets.deepnets.space.architecture import Architecture, Edges
from datasets.deepnets.space.wiring import Route

ZEROS = -1
"""Key of the product that makes zeros for missing states."""

_OUTPUT, _ZEROS = -1, -2
"""Values of a cell besides its states 0, 1, 2, ...: its output, and the zeros for missing states.
"""

_RELU = -3
"""Stands for the cell before the two stems: the ReLU that the second one applies to the first one's
output in place.
"""


class _Product(NamedTuple):
    key: int


class _Input(NamedTuple):
    which: int


_Item = str | int | _Product | _Input
"""Letters to emit, a value of the cell, a product, or the output of a cell before."""


class _Stretch(NamedTuple):
    """What the walk meets before it leaves a cell, or ends there.

    Attributes:
        letters: of the nodes.
        products: position among the letters, and key, of each product.
        back: how many cells back it goes on then; None at the end.
    """

    letters: str
    products: tuple[tuple[int, int], ...] = ()
    back: int | None = None


def kept_products(
    architecture: Architecture, routes: Sequence[Route | None]
) -> list[frozenset[int]]:
    """For each cell, the operations (by position, or `ZEROS`) whose product is a node.

    Args:
        architecture: the network.
        routes: how values flow through its live cells (`wiring.live`).
    """
    if not _has_live_cse(architecture, routes):
        return [frozenset()] * len(routes)
    walk = _Walk(architecture, routes)
    walk.visit(len(routes) - 1)
    return [frozenset(keys) for keys in walk.kept]


def _has_live_cse(architecture: Architecture, routes: Sequence[Route | None]) -> bool:
    if "cse" not in architecture.genotype.operations:
        return False
    halves = {
        reduction: {k for k, (name, _) in enumerate(edges) if name == "cse"}
        for reduction, edges in (
            (False, architecture.genotype.normal),
            (True, architecture.genotype.reduce),
        )
    }
    return any(
        route is not None and not route.used.isdisjoint(halves[reduction])
        for reduction, route in zip(architecture.reductions, routes, strict=True)
    )


def _head(architecture: Architecture) -> str:
    # Bias of the last layer; for each layer before it: dropout, ReLU, bias; flattening; average.
    return "C" + "oRC" * (architecture.fc_layers - 1) + ("oM" if architecture.glob_avg else "o")


class _Walk:
    """The walk through a network.

    Attributes:
        kept: for each cell the products found to be nodes so far.
    """

    def __init__(self, architecture: Architecture, routes: Sequence[Route | None]) -> None:
        self._architecture, self._routes = architecture, routes
        self._bn = "oo" if architecture.norm else ""
        self._known: dict[tuple[bool, bool, int], list[_Stretch]] = {}
        self._seen: set[int] = set()
        self._last = ("ooo" + _head(architecture))[-3:]
        self.kept: list[set[int]] = [set() for _ in routes]

    def visit(self, cell: int) -> None:
        """Walks through a cell and, where it leaves it, first through those before that have not
        been seen.
        """
        self._seen.add(cell)
        for letters, products, back in self._cell(cell) if cell >= 0 else self._stem(cell):
            context = self._last + letters
            for position, key in products:
                if context[position] in "RM" and "C" not in context[position + 1 : position + 3]:
                    self.kept[cell].add(key)
            self._last = context[-3:]
            if back is not None:
                before = cell - back
                if before == -2 and not self._architecture.two_stems:
                    before = -1  # both inputs of the first cell are one tensor
                if before not in self._seen:
                    self.visit(before)

    def _cell(self, cell: int) -> list[_Stretch]:
        architecture, route = self._architecture, self._routes[cell]
        assert route is not None  # dead cells are not reached
        reduction, halve = architecture.reductions[cell], architecture.halves_first(cell)
        key = (reduction, halve, id(route))
        if key not in self._known:
            edges = architecture.genotype.reduce if reduction else architecture.genotype.normal
            halves, preproc = architecture.halves(cell), architecture.preproc
            kind = _CellShape(edges, route, halves, halve, preproc, self._bn)
            self._known[key] = kind.stretches()
        return self._known[key]

    def _stem(self, cell: int) -> list[_Stretch]:
        bn = self._bn
        if self._architecture.is_vit:
            return [_Stretch("oo")]
        if self._architecture.stem_type == 0:
            return [_Stretch(("o" if self._architecture.stem_pool else "") + bn + "o")]
        if cell == _RELU:
            return [_Stretch("R" + bn + "oR" + bn + "o")]
        return [_Stretch(bn + "o" if cell == -1 else "", back=cell - _RELU)]


class _CellShape(NamedTuple):
    """What the walk through a cell depends on.

    Attributes:
        edges: its operations.
        route: how values flow.
        strided: whether operations that read the inputs halve the resolution.
        halve: whether the first input is brought to the resolution of the second.
        preproc: whether 1x1 convolutions bring its inputs to its width.
        bn: letters of batch norm.
    """

    edges: Edges
    route: Route
    strided: bool
    halve: bool
    preproc: bool
    bn: str

    def stretches(self) -> list[_Stretch]:
        """The walk from the output on, depth first."""
        stretches: list[_Stretch] = []
        letters, products = "", list[tuple[int, int]]()
        stack: list[_Item] = [_OUTPUT]
        seen: set[int] = set()
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                letters += item
            elif isinstance(item, _Product):
                products.append((len(letters), item.key))
                letters += "o"
            elif isinstance(item, _Input):
                stretches.append(_Stretch(letters, tuple(products), 2 - item.which))
                letters, products = "", []
            elif item not in seen:
                seen.add(item)
                stack += reversed(self._behind(item))
        return [*stretches, _Stretch(letters, tuple(products))]

    def _behind(self, value: int) -> list[_Item]:
        """What the walk meets from a value on, in order."""
        route = self.route
        if value == _OUTPUT:
            return ["o", *(_ZEROS if state in route.missing else state for state in route.concat)]
        if value == _ZEROS:
            return [_Product(ZEROS), route.source]
        if value < 2:
            return self._input(value)
        terms = route.terms[value - 2]
        items: list[_Item] = ["o"] if len(terms) == 2 else []
        for k in terms:
            items += self._operation(k)
        return items

    def _input(self, which: int) -> list[_Item]:
        halve = which == 0 and self.halve
        if not self.preproc:
            return ["oo", _Input(which)] if halve else [_Input(which)]
        return [self.bn + "ooR", _Input(which), "ooo"] if halve else [self.bn + "oR", _Input(which)]

    def _operation(self, k: int) -> list[_Item]:
        name, state = self.edges[k]
        strided, bn = self.strided and state < 2, self.bn
        if name == "skip_connect":
            return [bn + "ooR", state, "ooo"] if strided else [state]
        if name == "cse":
            return ["oo" if strided else "", _Product(k), state, "oooRoMooo"]
        if name == "msa":
            return ["oooooo", state, "oooooo"]
        if name.endswith("pool_3x3"):
            return ["o", state]
        if name.startswith("sep_conv"):
            return [bn + "ooR" + bn + "ooR", state]
        if name.startswith("dil_conv") or name == "conv_7x1_1x7":
            return [bn + "ooR", state]
        return [bn + "oR", state]


def every_product(architecture: Architecture) -> list[frozenset[int]]:
    """For each cell all its cse operations: what `kept_products` would be without the quirk."""
    genotype = architecture.genotype
    kinds = {
        reduction: frozenset(k for k, (name, _) in enumerate(edges) if name == "cse")
        for reduction, edges in ((False, genotype.normal), (True, genotype.reduce))
    }
    return [kinds[reduction] for reduction in architecture.reductions]
