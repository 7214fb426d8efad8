"""Multiply-adds of architectures, estimated in closed form: what a training step on a CPU costs.

Convolutions, linear layers and attention count; the first cell behind a two-part stem and what
`none` cuts off are counted as if they were like any other cell, so the estimate is within a quarter
of the exact number.
"""

from __future__ import annotations

import numpy as np

from datasets.deepnets.space.architecture import OPERATIONS
from datasets.deepnets.space.geometry import Geometry
from datasets.deepnets.space.scaling import Scaling
from datasets.deepnets.space.table import ArchitectureTable
from datasets.deepnets.space.weights import BY_OPERATION, Counts, Weights

_CSE = OPERATIONS.index("cse")


def multiply_adds(table: ArchitectureTable, scaling: Scaling) -> Counts:
    """(G,) multiply-adds of one image through each architecture at the given sizes."""
    geometry, rows = Geometry.of_all(table, scaling), np.arange(len(table))
    # Squeeze-and-excitation works once per image, everything else on each pixel.
    used = (table.valid[:, None, :] & (table.operation != _CSE)).astype(np.int64)
    cells = Weights(*((column[table.operation] * used).sum(axis=2) for column in BY_OPERATION))
    attention = table.count("msa")
    total = _stem(table, geometry)
    for cell in geometry.cells():
        its, pixels = Weights(*(column[rows, cell.reduction] for column in cells)), cell.side**2
        cost = geometry.preproc * sum(cell.inputs) * cell.width * cell.side_in**2
        cost += its.at(cell.width) * pixels
        cost += 2 * attention[rows, cell.reduction] * cell.width * pixels**2
        total = total + np.where(cell.number < geometry.n_cells, cost, 0)
    hidden = scaling.hidden(table.fc_dim.astype(np.int64))
    classifier: Counts = geometry.features * np.where(
        table.fc_layers > 1, hidden, scaling.num_classes
    )
    return total + classifier


def _stem(table: ArchitectureTable, geometry: Geometry) -> Counts:
    scaling, c = geometry.scaling, geometry.scaling.channels
    ks2, step = table.ks.astype(np.int64) ** 2, 2 if scaling.large else 1
    patches = 3 * c * scaling.patch**2 * scaling.patch_grid**2
    simple_side = scaling.image_size // (scaling.imagenet_stride if scaling.large else 1)
    single = 3 * ks2 * geometry.stem_width * simple_side**2
    half = scaling.image_size // step
    two_parts = (
        3 * ks2 * (c // 2) * half**2
        + 9 * (c // 2) * c * (half // step) ** 2
        + 9 * c * c * geometry.stem_side**2
    )
    stem: Counts = np.where(
        geometry.vit, patches, np.where(geometry.simple_stem, single, two_parts)
    )
    return stem
