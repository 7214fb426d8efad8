"""How wide and how large the parts of a network are: the one place for these formulae.

They are arithmetic that holds for numbers and for arrays alike, so that the graph builder and the
network, which look at one architecture, and the counts of parameters and multiply-adds, which look
at thousands, cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from datasets.deepnets.space.architecture import Architecture
from datasets.deepnets.space.scaling import Scaling
from datasets.deepnets.space.table import ArchitectureTable

Size = Any
"""An int, or an array (G,) of int64."""


class CellSizes(NamedTuple):
    """How large one cell is.

    Attributes:
        number: position among all cells.
        reduction: whether it is a reduction cell, 0 or 1.
        width: channels of its states.
        inputs: channels of the outputs of the two cells before it, at first those of the stem.
        side_in: height and width of the output of the cell before.
        side: height and width of its own output; with self-attention always the stem's.
    """

    number: int
    reduction: Size
    width: Size
    inputs: tuple[Size, Size]
    side_in: Size
    side: Size


@dataclass(frozen=True, slots=True)
class Geometry:
    """The geometry of one architecture or of G of them; flags are 0 or 1.

    Attributes:
        scaling: the sizes of the networks.
        n_cells: number of cells.
        C_mult: factor on the width at each reduction cell.
        n_concat: states in a cell's output.
        preproc: whether 1x1 convolutions come before a cell.
        vit: whether there is self-attention.
        simple_stem: whether the stem is a single convolution on pixels.
        stem_pool: whether the simple stem pools.
        glob_avg: whether the classifier averages over pixels.
    """

    scaling: Scaling
    n_cells: Size
    C_mult: Size
    n_concat: Size
    preproc: Size
    vit: Size
    simple_stem: Size
    stem_pool: Size
    glob_avg: Size

    @staticmethod
    def of(architecture: Architecture, scaling: Scaling) -> Geometry:
        """The geometry of one network."""
        vit = int(architecture.is_vit)
        return Geometry(
            scaling, architecture.n_cells, architecture.C_mult,
            len(architecture.genotype.normal_concat), int(architecture.preproc), vit,
            int(architecture.stem_type == 0) * (1 - vit), int(architecture.stem_pool),
            int(architecture.glob_avg),
        )  # fmt: skip

    @staticmethod
    def of_all(table: ArchitectureTable, scaling: Scaling) -> Geometry:
        """The geometry of many networks."""
        vit = table.has("msa")
        columns = (
            table.n_cells, table.C_mult, table.n_concat, table.preproc, vit,
            (table.stem_type == 0) & ~vit, table.stem_pool, table.glob_avg,
        )  # fmt: skip
        return Geometry(scaling, *(column.astype(np.int64) for column in columns))

    @property
    def stem_width(self) -> Size:
        """Channels of the stem's output: a simple stem on small images is three times as wide."""
        wide = self.simple_stem * self.preproc * (not self.scaling.large)
        return self.scaling.channels * (1 + 2 * wide)

    @property
    def stem_side(self) -> Size:
        """Height and width of the stem's output."""
        scaling, simple = self.scaling, self.simple_stem
        single = (scaling.imagenet_stride if scaling.large else 1) * (1 + self.stem_pool)
        stride = simple * single + (1 - simple) * scaling.two_part_stride
        return self.vit * scaling.patch_grid + (1 - self.vit) * (scaling.image_size // stride)

    def _reductions(self, cell: Size) -> Size:
        """Number of reduction cells among the cells 0..cell."""
        third, two_thirds = self.n_cells // 3, 2 * self.n_cells // 3
        first, second = (third > 0) * 1, (two_thirds > third) * 1
        return first * (third <= cell) + second * (two_thirds <= cell)

    def _width(self, reductions: Size) -> Size:
        return self.scaling.channels * self.C_mult**reductions

    def _side(self, reductions: Size) -> Size:
        return self.stem_side >> (1 - self.vit) * reductions

    def cells(self) -> Iterator[CellSizes]:
        """All cells in order; of many architectures, as many as the deepest one has."""
        before = previous = self.stem_width
        reductions, side = 0, self.stem_side
        for number in range(int(np.max(self.n_cells, initial=0))):
            fewer, reductions = reductions, self._reductions(number)
            width, side_in, side = self._width(reductions), side, self._side(reductions)
            reduction = reductions - fewer
            yield CellSizes(number, reduction, width, (before, previous), side_in, side)
            before, previous = previous, self.n_concat * width

    @property
    def features(self) -> Size:
        """Inputs of the classifier."""
        reductions = self._reductions(self.n_cells - 1)
        pixels = self.glob_avg + (1 - self.glob_avg) * self._side(reductions) ** 2
        return self.n_concat * self._width(reductions) * pixels
