"""Number of parameters of architectures, in closed form.

The published count is of the whole module: what `none` cuts off counts too, and so do the biases of
norms.
"""

from __future__ import annotations

import numpy as np

from datasets.deepnets.space.architecture import OPERATIONS
from datasets.deepnets.space.geometry import Geometry
from datasets.deepnets.space.scaling import Scaling
from datasets.deepnets.space.table import ArchitectureTable
from datasets.deepnets.space.weights import BY_OPERATION, STRIDED_SKIP, Counts, Weights

_SKIP = OPERATIONS.index("skip_connect")


def count_parameters(table: ArchitectureTable, scaling: Scaling) -> Counts:
    """(G,) parameters of each architecture at the given sizes."""
    geometry, norm = Geometry.of_all(table, scaling), table.norm.astype(np.int64)
    cells = _weights_of_cells(table)
    rows = np.arange(len(table))
    total = _stem(table, geometry, norm)
    for cell in geometry.cells():
        its = Weights(*(column[rows, cell.reduction] for column in cells))
        count = its.at(cell.width) + 2 * norm * its.norms * cell.width
        count += geometry.preproc * (sum(cell.inputs) + 4 * norm) * cell.width
        total = total + np.where(cell.number < geometry.n_cells, count, 0)
    return total + _classifier(table, geometry)


def _weights_of_cells(table: ArchitectureTable) -> Weights:
    """(G, 2) those of all operations of the normal and the reduction cell."""
    valid = table.valid[:, None, :]
    square, linear, norms = (
        (column[table.operation] * valid).sum(axis=2) for column in BY_OPERATION
    )
    vit = table.has("msa")[:, None]
    skips = (table.operation[:, 1] == _SKIP) & (table.source[:, 1] < 2) & valid[:, 0] & ~vit
    for column, of_skip in zip((square, linear, norms), STRIDED_SKIP, strict=True):
        column[:, 1] += of_skip * skips.sum(axis=1)
    return Weights(square, linear, norms)


def _stem(table: ArchitectureTable, geometry: Geometry, norm: Counts) -> Counts:
    scaling, c, width = geometry.scaling, geometry.scaling.channels, geometry.stem_width
    ks2 = table.ks.astype(np.int64) ** 2
    patches = 3 * c * scaling.patch**2 + c * scaling.patch_grid**2
    single = 3 * ks2 * width + 2 * norm * width
    two_parts = 3 * ks2 * (c // 2) + 9 * (c // 2) * c + 9 * c * c + norm * (c + 2 * c + 2 * c)
    stem: Counts = np.where(
        geometry.vit, patches, np.where(geometry.simple_stem, single, two_parts)
    )
    return stem


def _classifier(table: ArchitectureTable, geometry: Geometry) -> Counts:
    scaling, layers = geometry.scaling, table.fc_layers.astype(np.int64)
    features, classes = geometry.features, scaling.num_classes
    hidden = scaling.hidden(table.fc_dim.astype(np.int64))
    deep = (features + 1) * hidden + (layers - 2) * (hidden + 1) * hidden + (hidden + 1) * classes
    count: Counts = np.where(layers > 1, deep, (features + 1) * classes)
    return count
