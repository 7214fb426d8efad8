"""Which rows of which stored table are a split of a data set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from datasets.images.sources.table import Table
from ghn.errors import ConfigError

SPLITS = ("train", "val", "test", "all")

Rows = NDArray[np.int64]


def select(
    tables: Mapping[str, Table],
    split: str,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> tuple[Table, Rows]:
    """The stored table that holds a split, and its rows of that split in stored order.

    "test" is the stored test split, or else the stored validation split (ImageNet's public one is
    what one tests on). "val" is the stored validation split if there is a test split besides, else
    a stratified fraction of the stored training split, drawn by `seed`, which "train" then leaves
    out. A data set that is stored as one table is cut into all three; "all" is the whole of it.

    Raises:
        ConfigError: the data set has no such split, or it would be empty.
    """
    table, rows = _select(tables, split, val_fraction, test_fraction, seed)
    if not len(rows):
        raise ConfigError(
            f"split {split!r} would be empty: of {len(table.labels)} images in"
            f" {len(table.classes)} classes a share of {val_fraction:g} (val) or {test_fraction:g}"
            " (test) leaves none for it"
        )
    return table, rows


def _select(
    tables: Mapping[str, Table], split: str, val_fraction: float, test_fraction: float, seed: int
) -> tuple[Table, Rows]:
    if split not in SPLITS:
        raise ConfigError(
            f"split {split!r} of images does not exist; choose one of {', '.join(SPLITS)}"
        )
    draw = np.random.default_rng(seed)
    if "all" in tables:
        table = tables["all"]
        everything = np.arange(len(table.labels))
        rest, test = hold_out(table.labels, everything, test_fraction, draw)
        train, val = hold_out(table.labels, rest, val_fraction, draw)
        return table, {"train": train, "val": val, "test": test, "all": everything}[split]
    stored_test = "test" if "test" in tables else "val"
    stored_val = "val" if stored_test == "test" and "val" in tables else None
    if stored_val is None and split in ("train", "val") and "train" in tables:
        table = tables["train"]
        rest, held_out = hold_out(table.labels, np.arange(len(table.labels)), val_fraction, draw)
        return table, held_out if split == "val" else rest
    name = {"train": "train", "val": stored_val, "test": stored_test}.get(split)
    if name is None or name not in tables:
        raise ConfigError(f"no split {split!r}: the data set is stored as {', '.join(tables)}")
    return tables[name], np.arange(len(tables[name].labels))


def hold_out(
    labels: NDArray[np.int64], rows: Rows, fraction: float, draw: np.random.Generator
) -> tuple[Rows, Rows]:
    """Cuts `rows` into (rest, held out), each sorted, with every class in the same proportion.

    `fraction` of the rows in all is held out. What rounding leaves over goes to the classes that
    are owed most (by lot among equals), and no class loses its last row.
    """
    classes, of_row, counts = np.unique(labels[rows], return_inverse=True, return_counts=True)
    owed = counts * fraction
    quota = np.minimum(np.floor(owed).astype(np.int64), counts - 1)
    for _ in range(min(round(fraction * len(rows)), len(rows) - len(classes)) - int(quota.sum())):
        lack = np.where(quota < counts - 1, owed - quota, -np.inf)
        quota[draw.choice(np.flatnonzero(lack == lack.max()))] += 1
    by_class = np.lexsort((draw.random(len(rows)), of_row))
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    held_out = np.empty(len(rows), dtype=bool)
    held_out[by_class] = place < np.repeat(quota, counts)
    return rows[~held_out], rows[held_out]
