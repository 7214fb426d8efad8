"""Multiply-adds of architectures, estimated in closed form: what a training step on a CPU costs.

Convolutions, linear layers and attention count; the first cell behind a two-part stem and what
`none` cuts off are counted as if they were like any other cell, so the estimate is within a quarter
of the exact number.
"""

from __future__ import annotations

import numpy as np

from datasets.deepnets.space.architecture import OPERATIONS
from datasets.deepnets.space.parameters import _LINEAR, _SQUARE, Counts
from datasets.deepnets.space.scaling import Scaling
from datasets.deepnets.space.table import ArchitectureTable

_CSE = OPERATIONS.index("cse")


def multiply_adds(table: ArchitectureTable, scaling: Scaling) -> Counts:
    """(G,) multiply-adds of one image through each architecture at the given sizes."""
    c = scaling.channels
    n_cells = table.n_cells.astype(np.int64)
    vit = table.has("msa")
    square, linear = _SQUARE.copy(), _LINEAR.copy()
    square[_CSE] = linear[_CSE] = 0  # once per image, not per pixel
    valid = table.valid[:, None, :]
    square_GK = (square[table.operation] * valid).sum(axis=2)
    linear_GK = (linear[table.operation] * valid).sum(axis=2)
    attention_GK = table.count("msa")

    step = 2 if scaling.large else 1
    full = scaling.image_size // step
    ks2 = table.ks.astype(np.int64) ** 2
    simple = (table.stem_type == 0) & ~vit
    wide = simple & table.preproc & (not scaling.large)
    stem = np.where(wide, 3 * c, c)
    simple_side = scaling.image_size // (scaling.imagenet_stride if scaling.large else 1)
    side = np.where(
        vit, scaling.patch_grid, np.where(simple, simple_side >> table.stem_pool, full // step // 2)
    )
    total = np.where(
        vit,
        3 * c * scaling.patch**2 * scaling.patch_grid**2,
        np.where(
            simple,
            3 * ks2 * stem * simple_side**2,
            3 * ks2 * (c // 2) * full**2
            + (9 * (c // 2) * c) * (full // step) ** 2
            + 9 * c * c * side**2,
        ),
    )
    before = previous = stem
    width = np.full(len(table), c, dtype=np.int64)
    rows = np.arange(len(table))
    for cell in range(int(n_cells.max(initial=0))):
        exists = cell < n_cells
        reduction = (
            np.logical_or(n_cells // 3 == cell, 2 * n_cells // 3 == cell)
            if cell
            else np.zeros_like(exists)
        )
        width = np.where(reduction & exists, width * table.C_mult, width)
        cost = table.preproc * (before + previous) * width * side**2
        side = np.where(reduction & ~vit & exists, (side + 1) // 2, side)
        kind = reduction.astype(np.intp)
        cost += (square_GK[rows, kind] * width**2 + linear_GK[rows, kind] * width) * side**2
        cost += 2 * attention_GK[rows, kind] * width * side**4
        total = total + np.where(exists, cost, 0)
        before, previous = (
            np.where(exists, previous, before),
            np.where(exists, table.n_concat * width, previous),
        )
    features = np.where(table.glob_avg, previous, previous * side**2)
    hidden = (
        np.full(len(table), scaling.fc_dim) if scaling.fc_dim else table.fc_dim.astype(np.int64)
    )
    classifier: Counts = features * np.where(table.fc_layers > 1, hidden, scaling.num_classes)
    return total + classifier
