"""Which parts of an architecture take part in its output, and how wide they are.

The operation `none` leaves states, cell inputs and whole cells without a value, and what reads them
without an effect. The published graphs hold only what the output depends on; the graph builder and
the network both follow this module, so that they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from datasets.deepnets.space.architecture import Architecture, Edges
from datasets.deepnets.space.geometry import CellSizes, Geometry
from datasets.deepnets.space.scaling import Scaling
from ghn.errors import InvalidGraphError


class Route(NamedTuple):
    """How values flow through a cell, given which of its two inputs exist.

    Attributes:
        terms: for each sum, the positions of its operations (2i, 2i + 1) that contribute.
        concat: the states of the cell's output; a state without a value is replaced by zeros.
        missing: those states of `concat` that have no value.
        used: indices of live operations.
        inputs: whether state 0 and state 1 are used.
    """

    terms: tuple[tuple[int, ...], ...]
    concat: tuple[int, ...]
    missing: frozenset[int]
    used: frozenset[int]
    inputs: tuple[bool, bool]

    @property
    def source(self) -> int:
        """The state whose zeros stand in for missing ones."""
        return next(state for state in self.concat if state not in self.missing)


class Cell(NamedTuple):
    """One live cell.

    Attributes:
        number: position among all cells.
        reduction: whether it is a reduction cell.
        edges: its operations.
        route: how values flow.
        channels: width C of its states.
        channels_in: widths of the two incoming tensors, before preprocessing.
        halve_first: the first input has twice the resolution of the second and is brought to it.
        stride: stride of operations that read the inputs.
    """

    number: int
    reduction: bool
    edges: Edges
    route: Route
    channels: int
    channels_in: tuple[int, int]
    halve_first: bool
    stride: int


@lru_cache(4096)
def route(edges: Edges, concat: tuple[int, ...], exists: tuple[bool, bool]) -> Route | None:
    """The flow of values through a cell; None if its output has no value.

    Args:
        edges: the cell's operations.
        concat: the states of its output.
        exists: whether input 0 and input 1 have a value.
    """
    alive = list(exists)
    terms: list[tuple[int, ...]] = []
    for i in range(0, len(edges), 2):
        present = tuple(k for k in (i, i + 1) if edges[k][0] != "none" and alive[edges[k][1]])
        terms.append(present)
        alive.append(bool(present))
    missing = frozenset(state for state in concat if not alive[state])
    if len(missing) == len(concat):
        return None
    needed = [False] * len(alive)
    for state in concat:
        needed[state] = alive[state]
    used = set()
    for step in range(len(terms) - 1, -1, -1):
        if needed[step + 2]:
            for k in terms[step]:
                used.add(k)
                needed[edges[k][1]] = True
    return Route(tuple(terms), concat, missing, frozenset(used), (needed[0], needed[1]))


@dataclass(frozen=True)
class Wiring:
    """The live parts of a network.

    Attributes:
        cells: the live cells, in order.
        routes: for every cell its route, None for a dead one.
        stems: whether the value of input 0 of the first cell, and that of its input 1, are used.
            They are the same tensor unless `Architecture.two_stems`.
        stem_channels: width of the stem's output.
        classifier: (inputs, outputs) of its fully connected layers.
    """

    cells: tuple[Cell, ...]
    routes: tuple[Route | None, ...]
    stems: tuple[bool, bool]
    stem_channels: int
    classifier: tuple[tuple[int, int], ...]


def live(architecture: Architecture) -> tuple[list[Route | None], tuple[bool, bool]]:
    """The route of every live cell (None for a dead one) and whether the two stem outputs are used.

    Raises:
        InvalidGraphError: the output has no value.
    """
    genotype = architecture.genotype
    halves = {
        False: (genotype.normal, genotype.normal_concat),
        True: (genotype.reduce, genotype.reduce_concat),
    }
    memo: dict[tuple[bool, bool, bool], Route | None] = {}
    exists, next_exists = True, True  # the outputs of the two cells before
    routes: list[Route | None] = []
    for reduction in architecture.reductions:
        key = (reduction, exists, next_exists)
        if key not in memo:
            memo[key] = route(*halves[reduction], (exists, next_exists))
        current = memo[key]
        routes.append(current)
        exists, next_exists = next_exists, current is not None
    if routes[-1] is None:
        raise InvalidGraphError("architecture: its output is disconnected from its input by 'none'")
    needed, before_needed = True, False  # the outputs of this cell and of the one before
    for cell in range(len(routes) - 1, -1, -1):
        current = routes[cell]
        first, second = False, before_needed
        if not needed:
            routes[cell] = None
        elif current is not None:
            first, second = current.inputs[0], before_needed or current.inputs[1]
        needed, before_needed = second, first
    return routes, (before_needed, needed)  # the first cell's inputs are the stem's two outputs


@lru_cache(4096)
def _cells(geometry: Geometry) -> tuple[CellSizes, ...]:
    """The sizes of all cells; there are few kinds of them among thousands of architectures."""
    return tuple(geometry.cells())


def wire(architecture: Architecture, scaling: Scaling) -> Wiring:
    """The live parts of `architecture` at given sizes.

    Raises:
        InvalidGraphError: the output has no value.
    """
    routes, stems = live(architecture)
    geometry, genotype = Geometry.of(architecture, scaling), architecture.genotype
    cells = [
        Cell(
            number=sizes.number,
            reduction=bool(sizes.reduction),
            edges=genotype.reduce if sizes.reduction else genotype.normal,
            route=current,
            channels=sizes.width,
            channels_in=sizes.inputs,
            halve_first=architecture.halves_first(sizes.number),
            stride=2 if architecture.halves(sizes.number) else 1,
        )
        for current, sizes in zip(routes, _cells(geometry), strict=True)
        if current is not None
    ]
    hidden = [scaling.hidden(architecture.fc_dim)] * (architecture.fc_layers - 1)
    classifier = tuple(pairwise([geometry.features, *hidden, scaling.num_classes]))
    return Wiring(tuple(cells), tuple(routes), stems, geometry.stem_width, classifier)
