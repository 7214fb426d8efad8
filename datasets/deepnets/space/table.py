"""Many architectures as columns of arrays, and as rows of bytes.

Drawing, filtering and counting work on columns, a million architectures at a time. A row of bytes
is what the store keeps: 11 bytes of arguments and one byte per operation (its index in the high
half, the state it reads in the low one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from numpy.typing import NDArray

from datasets.deepnets.space.architecture import OPERATIONS, Architecture, Genotype

_HEADER = 11
_INDEX = {name: i for i, name in enumerate(OPERATIONS)}


@dataclass(frozen=True, eq=False)
class ArchitectureTable:
    """G architectures of up to S sums; see `search_space.Architecture` for the fields.

    Attributes:
        steps: (G,) number of sums of each.
        operation: (G, 2, 2S) uint8, indices of `OPERATIONS` for the normal (0) and the reduction
            (1) cell; 0 beyond 2 * steps.
        source: (G, 2, 2S) uint8, the states they read.
        concat: (G, 2) uint16, bit s - 2 set if state s is in the output.
    """

    n_cells: NDArray[np.uint8]
    ks: NDArray[np.uint8]
    C_mult: NDArray[np.uint8]
    preproc: NDArray[np.bool_]
    glob_avg: NDArray[np.bool_]
    norm: NDArray[np.bool_]
    stem_type: NDArray[np.uint8]
    stem_pool: NDArray[np.bool_]
    fc_layers: NDArray[np.uint8]
    fc_dim: NDArray[np.uint16]
    steps: NDArray[np.uint8]
    operation: NDArray[np.uint8]
    source: NDArray[np.uint8]
    concat: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.n_cells)

    def select(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> ArchitectureTable:
        """Some of the rows."""
        return ArchitectureTable(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @staticmethod
    def concatenate(tables: Sequence[ArchitectureTable]) -> ArchitectureTable:
        """All rows of `tables`, which have the same S."""
        names = [f.name for f in fields(ArchitectureTable)]
        return ArchitectureTable(
            **{name: np.concatenate([getattr(t, name) for t in tables]) for name in names}
        )

    def has(self, *operations: str) -> NDArray[np.bool_]:
        """(G,) whether either cell has one of `operations`."""
        found: NDArray[np.bool_] = self.count(*operations).sum(axis=1) > 0
        return found

    def count(self, *operations: str) -> NDArray[np.int64]:
        """(G, 2) how many of `operations` each cell has."""
        wanted = np.zeros(len(OPERATIONS), dtype=bool)
        wanted[[_INDEX[name] for name in operations]] = True
        counts: NDArray[np.int64] = (wanted[self.operation] & self.valid[:, None, :]).sum(axis=2)
        return counts

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(G, 2S) which entries of `operation` are in use."""
        return np.arange(self.operation.shape[2]) < 2 * self.steps[:, None].astype(np.int64)

    @property
    def n_concat(self) -> NDArray[np.int64]:
        """(G,) number of states in a cell's output."""
        bits = np.unpackbits(np.ascontiguousarray(self.concat[:, :1]).view(np.uint8), axis=1)
        total: NDArray[np.int64] = bits.sum(axis=1, dtype=np.int64)
        return total

    def encode(self) -> NDArray[np.uint8]:
        """(G, 11 + 4S) uint8: the rows of bytes."""
        g = len(self)
        code = np.zeros((g, _HEADER + 2 * self.operation.shape[2]), dtype=np.uint8)
        flags = (
            self.preproc,
            self.glob_avg,
            self.norm,
            self.stem_pool,
            self.stem_type,
            self.C_mult - 1,
        )
        packed = np.zeros(g, dtype=np.uint8)
        for bit, flag in enumerate(flags):
            packed |= flag.astype(np.uint8) << np.uint8(bit)
        code[:, 0], code[:, 1], code[:, 2], code[:, 3], code[:, 4] = (
            self.n_cells, self.ks, packed, self.fc_layers, self.steps,
        )  # fmt: skip
        code[:, 5:7] = self.fc_dim[:, None].astype("<u2").view(np.uint8)
        code[:, 7:11] = np.ascontiguousarray(self.concat.astype("<u2")).view(np.uint8)
        code[:, _HEADER:] = (self.operation << np.uint8(4) | self.source).reshape(
            code[:, _HEADER:].shape
        )
        return code

    @staticmethod
    def decode(code: NDArray[np.uint8]) -> ArchitectureTable:
        """The inverse of `encode`."""
        g = len(code)
        packed = code[:, 2]
        bit = [(packed >> np.uint8(i) & np.uint8(1)).astype(bool) for i in range(5)]
        cells = code[:, _HEADER:].reshape(g, 2, -1)
        return ArchitectureTable(
            n_cells=code[:, 0],
            ks=code[:, 1],
            C_mult=(packed >> np.uint8(5)) + np.uint8(1),
            preproc=bit[0],
            glob_avg=bit[1],
            norm=bit[2],
            stem_pool=bit[3],
            stem_type=bit[4].astype(np.uint8),
            fc_layers=code[:, 3],
            steps=code[:, 4],
            fc_dim=np.ascontiguousarray(code[:, 5:7]).view("<u2")[:, 0],
            concat=np.ascontiguousarray(code[:, 7:11]).view("<u2"),
            operation=cells >> np.uint8(4),
            source=cells & np.uint8(15),
        )

    @staticmethod
    def from_architectures(
        architectures: Sequence[Architecture], slots: int | None = None
    ) -> ArchitectureTable:
        """Columns of given architectures; `slots` is 2S, by default as many as they need."""
        g = len(architectures)
        slots = slots or 2 * max((a.genotype.steps for a in architectures), default=1)
        operation, source = np.zeros((2, g, 2, slots), dtype=np.uint8)
        concat = np.zeros((g, 2), dtype=np.uint16)
        for row, architecture in enumerate(architectures):
            genotype = architecture.genotype
            halves = (
                (genotype.normal, genotype.normal_concat),
                (genotype.reduce, genotype.reduce_concat),
            )
            for kind, (edges, states) in enumerate(halves):
                operation[row, kind, : len(edges)] = [_INDEX[name] for name, _ in edges]
                source[row, kind, : len(edges)] = [state for _, state in edges]
                concat[row, kind] = sum(1 << (state - 2) for state in states)

        def column(name: str, dtype: type) -> NDArray[np.generic]:
            return np.array([getattr(a, name) for a in architectures], dtype=dtype)

        small = ("n_cells", "ks", "C_mult", "stem_type", "fc_layers")
        return ArchitectureTable(
            **{name: column(name, np.uint8) for name in small},  # type: ignore[arg-type]
            **{name: column(name, np.bool_) for name in ("preproc", "glob_avg", "stem_pool")},  # type: ignore[arg-type]
            norm=np.array([a.norm is not None for a in architectures], dtype=bool),
            fc_dim=np.array([a.fc_dim for a in architectures], dtype=np.uint16),
            steps=np.array([a.genotype.steps for a in architectures], dtype=np.uint8),
            operation=operation,
            source=source,
            concat=concat,
        )


_EDGES = [(name, state) for name in OPERATIONS for state in range(16)]
"""What a byte of an operation means."""


@cache
def _states(bits: int) -> tuple[int, ...]:
    return tuple(state + 2 for state in range(16) if bits >> state & 1)


def decode_row(code: bytes) -> Architecture:
    """One row of bytes as an architecture, without the detour over columns."""
    slots = 2 * code[4]
    half = (len(code) - _HEADER) // 2
    packed = code[2]

    def cell(kind: int) -> tuple[tuple[tuple[str, int], ...], tuple[int, ...]]:
        begin = _HEADER + kind * half
        edges = tuple([_EDGES[byte] for byte in code[begin : begin + slots]])
        return edges, _states(code[7 + 2 * kind] | code[8 + 2 * kind] << 8)

    normal, normal_concat = cell(0)
    reduce, reduce_concat = cell(1)
    return Architecture(
        genotype=Genotype(normal, normal_concat, reduce, reduce_concat),
        n_cells=code[0],
        ks=code[1],
        C_mult=(packed >> 5) + 1,
        preproc=bool(packed & 1),
        glob_avg=bool(packed & 2),
        norm="bnorm" if packed & 4 else None,
        stem_type=packed >> 4 & 1,
        stem_pool=bool(packed & 8),
        fc_layers=code[3],
        fc_dim=code[5] | code[6] << 8,
    )
