"""A shard of a split: what one worker generates at a time, and the unit of resuming.

Shard k of a split depends on (seed, rules, k) alone, so a split is the same whatever the number of
workers and however often it was interrupted.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.deepnets.graphs.builder import Assembly
from datasets.deepnets.graphs.packing import pack
from datasets.deepnets.graphs.structures import Structures
from datasets.deepnets.space.rules import SplitRules
from datasets.deepnets.space.sampling import draw
from datasets.deepnets.space.table import decode_row
from datasets.deepnets.store.pack import GraphPack
from ghn.errors import DamagedFileError, InvalidGraphError
from ghn.files import atomic_path


class Notes(NamedTuple):
    """Number of a shard, and what was not taken into it; see `Shard`."""

    number: int
    rejected: dict[str, int]
    redrawn: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Shard:
    """Some architectures of a split with their graphs.

    Attributes:
        index: k.
        code: (G, K) uint8, the architectures (`table.ArchitectureTable.encode`).
        graphs: their graphs.
        hashes: (G, 2) uint64, canonical hashes of the graphs.
        n_params: (G, 2) int64, parameters at 32-pixel and 224-pixel input.
        checksums: (G,) uint32 (`GraphPack.checksums`).
        rejected: drawn architectures that were not taken, by reason.
        redrawn: hashes (hexadecimal) of rejected architectures that are isomorphic to one of a
            disjoint split.
    """

    index: int
    code: NDArray[np.uint8]
    graphs: GraphPack
    hashes: NDArray[np.uint64]
    n_params: NDArray[np.int64]
    checksums: NDArray[np.uint32]
    rejected: dict[str, int]
    redrawn: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Writes the shard; the file is whole or absent."""
        arrays = {name: getattr(self.graphs, name) for name in GraphPack.names()}
        notes = json.dumps(
            {"index": self.index, "rejected": self.rejected, "redrawn": self.redrawn}
        )
        with atomic_path(path) as temporary:
            np.savez(
                temporary.with_suffix(".npz"),
                code=self.code,
                hashes=self.hashes,
                n_params=self.n_params,
                checksums=self.checksums,
                notes=np.frombuffer(notes.encode(), dtype=np.uint8),
                **arrays,
            )

    @staticmethod
    def load_notes(path: Path) -> Notes:
        """What a shard's file says besides its arrays.

        Raises:
            DamagedFileError: the file is not a whole shard.
        """
        with _reading(path), np.load(path, allow_pickle=False) as file:
            notes = json.loads(file["notes"].tobytes())
        return Notes(notes["index"], notes["rejected"], tuple(notes["redrawn"]))

    @staticmethod
    def load_hashes(path: Path) -> NDArray[np.uint64]:
        """`hashes` of a shard's file.

        Raises:
            DamagedFileError: the file is not a whole shard.
        """
        with _reading(path), np.load(path, allow_pickle=False) as file:
            hashes: NDArray[np.uint64] = file["hashes"]
        return hashes

    def select(self, keep: NDArray[np.bool_]) -> Shard:
        """Some of its architectures."""
        if keep.all():
            return self
        return replace(
            self, code=self.code[keep], graphs=self.graphs.select(keep), hashes=self.hashes[keep],
            n_params=self.n_params[keep], checksums=self.checksums[keep],
        )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> Shard:
        """Reads a shard; the ZIP format's checksums are verified.

        Raises:
            DamagedFileError: the file is not a whole shard.
        """
        notes = cls.load_notes(path)
        with _reading(path), np.load(path, allow_pickle=False) as file:
            graphs = GraphPack(*(file[name] for name in GraphPack.names()))
            return cls(
                notes.number, file["code"], graphs, file["hashes"], file["n_params"],
                file["checksums"],
                notes.rejected, notes.redrawn,
            )  # fmt: skip


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DamagedFileError(
            f"{path}: not a whole shard ({error}); delete it and generate again"
        ) from error


def hexadecimal(hashes: NDArray[np.uint64]) -> list[str]:
    """Hashes (G, 2) as 32 hexadecimal digits each."""
    return [f"{first:016x}{second:016x}" for first, second in hashes.tolist()]


@dataclass
class Supply:
    """Whether rules still yield new architectures: counts since the last verdict, so that single
    rounds decide nothing.

    Attributes:
        drawn: architectures drawn.
        built: those that no rule rejects.
        new: those of them that are unlike all before.
    """

    drawn: int = 0
    built: int = 0
    new: int = 0

    def count(self, drawn: int, built: int, new: int) -> None:
        """Adds a round."""
        self.drawn, self.built, self.new = self.drawn + drawn, self.built + built, self.new + new

    def shortage(self) -> str:
        """What there is too little of; empty if there is enough, or too early to tell."""
        if self.built < 100 and self.drawn < 200_000:
            return ""
        drawn, built, new = self.drawn, self.built, self.new
        self.drawn = self.built = self.new = 0
        if built < 1e-4 * drawn:
            return f"reject nearly every architecture ({drawn - built:,} of the last {drawn:,})"
        return "yield hardly any new architecture" if new < 0.01 * built else ""


def generate_shard(
    rules: SplitRules, seed: int, index: int, size: int, forbidden: frozenset[str] = frozenset()
) -> Shard:
    """Draws `size` architectures, no two of which have isomorphic graphs, and builds their graphs.

    Args:
        rules: of the split.
        seed: of the pipeline.
        index: k.
        size: number of architectures.
        forbidden: canonical hashes (hexadecimal) that must not occur.

    Raises:
        InvalidGraphError: the rules leave almost nothing to draw.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, rules.seed, index]))
    rejected: Counter[str] = Counter()
    redrawn: list[str] = []
    seen: set[str] = set()
    parts: list[tuple[NDArray[np.uint8], GraphPack, NDArray[np.uint64], NDArray[np.int64]]] = []
    supply = Supply()
    while len(seen) < size:
        # Four in five draws are accepted; a little more, so that one round is mostly enough.
        n = int(1.3 * (size - len(seen))) + 64
        drawn = draw(rules, n, rng)
        rejected.update(drawn.rejected)
        before, built = len(seen), 0
        for code, n_params, structures in _built(
            drawn.table.encode(), drawn.n_params, size - len(seen), rejected
        ):
            packed, hashes = pack(structures)
            built += len(packed)
            keep = np.zeros(len(packed), dtype=bool)
            for i, key in enumerate(hexadecimal(hashes)):
                if key in forbidden:
                    redrawn.append(key)
                elif key in seen:
                    rejected["duplicate"] += 1
                elif len(seen) < size:
                    keep[i] = True
                    seen.add(key)
            parts.append((code[keep], packed.select(keep), hashes[keep], n_params[keep]))
        supply.count(n, built, len(seen) - before)
        if len(seen) < size and (shortage := supply.shortage()):
            raise InvalidGraphError(
                f"the rules of the split {shortage} after {len(seen)} of {size}; widen them, or"
                " make size or generate.shard_size smaller"
            )
    code, hashes, n_params = (np.concatenate([part[i] for part in parts]) for i in (0, 2, 3))
    graphs = GraphPack(
        *(np.concatenate([getattr(part[1], name) for part in parts]) for name in GraphPack.names())
    )
    rejected["isomorphic_to_disjoint"] = len(redrawn)
    return Shard(
        index,
        code,
        graphs,
        hashes,
        n_params,
        graphs.checksums(code),
        dict(rejected),
        tuple(redrawn),
    )


_CHUNK = 256
"""Graphs built together: their arrays stay in the cache and in the heap; larger ones are mapped
anew, page by page.
"""


def _built(
    code: NDArray[np.uint8], n_params: NDArray[np.int64], wanted: int, rejected: Counter[str]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64], Structures]]:
    """Builds graphs until there are `wanted` (in order, so that how many are built does not change
    which).
    """
    for begin in range(0, len(code), _CHUNK):
        rows, assembly = [], Assembly()
        for row in range(begin, min(begin + _CHUNK, len(code))):
            if wanted <= 0:
                break
            try:
                assembly.add(decode_row(code[row].tobytes()))
            except InvalidGraphError:
                rejected["disconnected"] += 1
                continue
            rows.append(row)
            wanted -= 1
        if rows:
            yield code[rows], n_params[rows], assembly.finish()
