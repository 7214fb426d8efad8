"""How many weights an operation has, as a polynomial in the width C: read off the nodes that it
adds to a graph (`parts`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.deepnets.space import parts
from datasets.deepnets.space.architecture import OPERATIONS
from datasets.deepnets.space.parts import Part
from ghn.graph import Primitive

Counts = NDArray[np.int64]


class Weights(NamedTuple):
    """(square C^2 + linear C) / 2 weights and `norms` batch norms; numbers, or arrays of them."""

    square: Counts
    linear: Counts
    norms: Counts

    def at(self, width: Counts) -> Counts:
        """Number of weights at width C, batch norms aside; C is even."""
        return (self.square * width**2 + self.linear * width) // 2


def weights_of(part: Part | None) -> Weights:
    """The weights of a piece of a graph that reads and writes C channels; of the identity none."""
    total = np.zeros(3, dtype=np.int64)
    nodes = zip(part.primitives, part.names, part.shapes, strict=True) if part else ()
    for primitive, name, shape in nodes:
        if primitive == Primitive.bn:
            total[2] += 1
        elif name:
            halves = [size[0] for size in shape if not isinstance(size, int)]
            constant = math.prod(size for size in shape if isinstance(size, int))
            biased = 2 if primitive == Primitive.ln else 1  # its bias is no node
            value = 2 * biased * constant * math.prod(halves)
            total[2 - len(halves)] += value >> len(halves)
    return Weights(*total)


def _by_operation() -> Weights:
    rows = [
        weights_of(None if name == "none" else parts.operation(name, True, False, True))
        for name in OPERATIONS
    ]
    return Weights(*np.array(rows, dtype=np.int64).T)


BY_OPERATION = _by_operation()
"""(O,) arrays over `OPERATIONS`, for stride 1."""

STRIDED_SKIP = weights_of(parts.operation("skip_connect", True, True, True))
"""Of a skip connection that halves the resolution."""
