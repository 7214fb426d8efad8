"""The order of an epoch of a stream: which rows are in which batch, and who reads them.

The blocks of a table are dealt to S lanes once and for all, evenly by their rows, so that every
epoch has the same number of batches. An epoch shuffles the blocks of a lane, takes them in pools of
some rows, shuffles the rows of a pool, and cuts batches from them. Batches come from the lanes in
turn: slot k belongs to lane k % S. Slots of a lane that has ended are empty, so that this holds to
the end, and whoever serves whole lanes reads every block once.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

_EMPTY: Rows = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Order:
    """The batches of every epoch.

    Attributes:
        blocks: ranges [begin, end) of rows that are stored together.
        rows: (N,) the rows of the split, sorted.
        lanes: number S of interleaved orders.
        pool: rows that are shuffled together; what a lane holds in memory.
    """

    blocks: Sequence[tuple[int, int]]
    rows: Rows
    lanes: int
    pool: int

    @cached_property
    def _ends(self) -> Rows:
        return np.array([end for _, end in self.blocks], dtype=np.int64)

    def block_of(self, rows: Rows) -> Rows:
        """The number of the block of each row."""
        return np.searchsorted(self._ends, rows, side="right")

    @cached_property
    def _by_lane(self) -> list[list[Rows]]:
        """The rows of each block of each lane, the largest block to the emptiest lane."""
        boundaries = np.flatnonzero(np.diff(self.block_of(self.rows))) + 1
        parts = np.split(self.rows, boundaries)
        shuffled = np.random.default_rng(0).permutation(len(parts)).tolist()
        lanes: list[list[Rows]] = [[] for _ in range(self.lanes)]
        loads = [(0, lane) for lane in range(self.lanes)]
        for i in sorted(shuffled, key=lambda i: -len(parts[i])):
            load, lane = loads[0]
            lanes[lane].append(parts[i])
            heapq.heapreplace(loads, (load + len(parts[i]), lane))
        return lanes

    def n_batches(self, batch_size: int, drop_last: bool) -> int:
        """Batches in every epoch; a lane drops or keeps its own last batch."""
        sizes = [sum(map(len, lane)) for lane in self._by_lane]
        return sum(n // batch_size if drop_last else -(-n // batch_size) for n in sizes)

    def slots(self, batch_size: int, seed: int, epoch: int, drop_last: bool) -> list[Rows]:
        """The rows of each batch of an epoch; those of an empty slot are none."""
        draw = np.random.default_rng((seed, epoch))
        lanes = []
        for own in self._by_lane:
            rows = self._shuffle(own, draw)
            end = len(rows) // batch_size * batch_size if drop_last else len(rows)
            lanes.append([rows[i : i + batch_size] for i in range(0, end, batch_size)])
        rounds = max(map(len, lanes))
        return [lane[k] if k < len(lane) else _EMPTY for k in range(rounds) for lane in lanes]

    def _shuffle(self, own: Sequence[Rows], draw: np.random.Generator) -> Rows:
        if not own:
            return _EMPTY
        own = [own[i] for i in draw.permutation(len(own))]
        pool_of = np.cumsum([len(part) for part in own]) // self.pool
        begins = np.flatnonzero(np.diff(pool_of, prepend=-1))
        pools = [own[a:b] for a, b in zip(begins, [*begins[1:], len(own)], strict=True)]
        return np.concatenate([draw.permutation(np.concatenate(pool)) for pool in pools])
