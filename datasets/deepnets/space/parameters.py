"""Number of parameters of architectures, in closed form.

The published count is of the whole module: what `none` cuts off counts too, and so do the biases of
norms.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datasets.deepnets.space.architecture import OPERATIONS
from datasets.deepnets.space.scaling import Scaling
from datasets.deepnets.space.table import ArchitectureTable

Counts = NDArray[np.int64]


def _operation_costs() -> tuple[Counts, Counts, Counts]:
    """Per operation: coefficient of C^2, coefficient of C without norms, number of norms (2C
    each).
    """
    square, linear, norms = np.zeros((3, len(OPERATIONS)), dtype=np.int64)
    for i, name in enumerate(OPERATIONS):
        kind, _, size = name.rpartition("_")
        if kind in ("conv", "sep_conv", "dil_conv") and "x" in size:
            k = int(size.split("x")[0])
            square[i], linear[i], norms[i] = {
                "conv": (k * k, 0, 1),
                "sep_conv": (2, 2 * k * k, 2),
                "dil_conv": (1, k * k, 1),
            }[kind]
    square[OPERATIONS.index("conv_7x1_1x7")] = 14
    linear[OPERATIONS.index("conv_7x1_1x7")] = 0
    norms[OPERATIONS.index("conv_7x1_1x7")] = 1
    square[OPERATIONS.index("msa")], linear[OPERATIONS.index("msa")] = (
        6,
        7,
    )  # its two layer norms always exist
    square[OPERATIONS.index("cse")] = 1
    return square, linear, norms


_SQUARE, _LINEAR, _NORMS = _operation_costs()
_SKIP, _CSE = OPERATIONS.index("skip_connect"), OPERATIONS.index("cse")


def count_parameters(table: ArchitectureTable, scaling: Scaling) -> Counts:
    """(G,) parameters of each architecture at the given sizes."""
    c = scaling.channels
    n_cells, multiple = table.n_cells.astype(np.int64), table.C_mult.astype(np.int64)
    vit = table.has("msa")
    norm = table.norm.astype(np.int64)
    valid = table.valid[:, None, :]
    square = (_SQUARE[table.operation] * valid).sum(axis=2)
    linear = (_LINEAR[table.operation] * valid).sum(axis=2) + 2 * norm[:, None] * (
        _NORMS[table.operation] * valid
    ).sum(axis=2)
    halves = ((table.operation == _CSE) & valid).sum(axis=2)  # cse: C^2 + 3C/2
    strided = (
        (table.operation[:, 1] == _SKIP) & (table.source[:, 1] < 2) & valid[:, 0] & ~vit[:, None]
    )
    square[:, 1] += strided.sum(axis=1)
    linear[:, 1] += 2 * norm * strided.sum(axis=1)

    simple = (table.stem_type == 0) & ~vit
    wide = simple & table.preproc & (not scaling.large)
    stem = np.where(wide, 3 * c, c)
    ks2 = table.ks.astype(np.int64) ** 2
    total = np.where(
        vit,
        3 * c * scaling.patch**2 + c * scaling.patch_grid**2,
        np.where(
            simple,
            3 * ks2 * stem + 2 * norm * stem,
            3 * ks2 * (c // 2) + 9 * (c // 2) * c + 9 * c * c + norm * (c + 2 * c + 2 * c),
        ),
    )
    before = previous = stem
    width = np.full(len(table), c, dtype=np.int64)
    concat = table.n_concat
    rows = np.arange(len(table))
    for cell in range(int(n_cells.max(initial=0))):
        exists = cell < n_cells
        reduction = (
            np.logical_or(n_cells // 3 == cell, 2 * n_cells // 3 == cell)
            if cell
            else np.zeros_like(exists)
        )
        width = np.where(reduction & exists, width * multiple, width)
        kind = reduction.astype(np.intp)
        cost = (
            square[rows, kind] * width**2
            + linear[rows, kind] * width
            + halves[rows, kind] * (3 * width // 2)
        )
        cost += table.preproc * ((before + previous) * width + 4 * norm * width)
        total = total + np.where(exists, cost, 0)
        before, previous = (
            np.where(exists, previous, before),
            np.where(exists, concat * width, previous),
        )
    return total + _classifier(table, scaling, previous, vit, n_cells)


def _classifier(
    table: ArchitectureTable,
    scaling: Scaling,
    features: Counts,
    vit: NDArray[np.bool_],
    n_cells: Counts,
) -> Counts:
    stride = np.where(
        table.stem_type == 1,
        8 if scaling.large else 2,
        (scaling.imagenet_stride if scaling.large else 1) * (1 + table.stem_pool.astype(np.int64)),
    )
    third, two_thirds = n_cells // 3, 2 * n_cells // 3
    reductions = np.minimum(third, 1) + np.minimum(two_thirds - third, 1)
    grid = np.where(vit, scaling.patch_grid, scaling.image_size // (stride << reductions))
    features = np.where(table.glob_avg, features, features * grid**2)
    layers = table.fc_layers.astype(np.int64)
    hidden = (
        np.full(len(table), scaling.fc_dim) if scaling.fc_dim else table.fc_dim.astype(np.int64)
    )
    classes = scaling.num_classes
    deep = (features + 1) * hidden + (layers - 2) * (hidden + 1) * hidden + (hidden + 1) * classes
    return np.where(layers > 1, deep, (features + 1) * classes)
