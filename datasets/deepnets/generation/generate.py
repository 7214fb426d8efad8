"""Generates splits of DeepNets-1M, shard by shard, on any number of workers.

Shards wait in `.<split>.shards/<fingerprint>/` next to the split's files until all are there; then
they are written into the two files of the split in order and removed. A run that was killed finds
the shards that are complete and makes the missing ones; the fingerprint of everything a shard
depends on keeps those of other settings, and of other versions of this code, apart.

Shards are drawn independently, so small networks come up in several of them (5 in 100 of a million
architectures). A split has each once: it is the first `size` different architectures of shards 0,
1, 2, ..., as many as that takes.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from datasets.deepnets.generation.config import GenerateConfig
from datasets.deepnets.generation.fingerprint import code_digest, fingerprint
from datasets.deepnets.generation.shard import Shard, generate_shard, hexadecimal
from datasets.deepnets.generation.workers import MapItems, OnThisMachine, settle
from datasets.deepnets.graphs.split import Split, open_split
from datasets.deepnets.space.rules import SplitRules, rules_of
from datasets.deepnets.store.files import (
    files_of,
    only_writer_of,
    paths_of,
    writing,
)
from datasets.deepnets.store.header import Header
from datasets.deepnets.store.writer import Block, write_split
from ghn.errors import DamagedFileError, InvalidGraphError
from ghn.files import remove_leftovers


@dataclass(frozen=True)
class Generated:
    """What a run did.

    Attributes:
        split: the split, open.
        made: shards made in this run; the others were there.
    """

    split: Split
    made: int


def generate_split(
    directory: str | Path,
    split: str,
    config: GenerateConfig | None = None,
    seed: int = 1,
    map_shards: MapItems | None = None,
) -> Generated:
    """Generates a split, or finishes one that was interrupted. A split that is there already is
    left as it is, unless what it must be disjoint from has changed.

    Args:
        directory: where the files go.
        split: its name.
        config: rules and shard size.
        seed: of the pipeline.
        map_shards: who makes the shards; by default this process.

    Raises:
        ConfigError: no rules for `split`.
        GHNError: another process is writing this split, or the disk is full.
        DamagedFileError: a shard is damaged.
        InvalidGraphError: the rules allow too few different architectures.
    """
    directory, config = Path(directory), config or GenerateConfig()
    all_rules = config.rules()
    rules = rules_of(split, all_rules)
    with only_writer_of(directory, split):
        remove_leftovers(*files_of(directory, split))
        forbidden = disjoint_hashes(
            directory, rules.disjoint_from, all_rules, seed, config.shard_size
        )
        header = Header(
            split=split, origin="generated", seed=seed, rules=rules.model_dump(mode="json"),
            shard_size=config.shard_size, n_graphs=rules.size,
            width_factor=rules.width_factor, width_factor_large=rules.width_factor_large,
        )  # fmt: skip
        wanted, existing = fingerprint(header, forbidden), _existing(directory, split)
        if (
            existing is not None
            and fingerprint(existing.header, forbidden) == wanted
            and _leaves_out(existing, forbidden)
        ):
            return Generated(existing, 0)
        shards = directory / f".{split}.shards" / f"{wanted}-{code_digest()}"
        make = partial(_make, shards, rules, seed, config.shard_size, frozenset(forbidden))
        made = 0

        def hashes_of(indices: range) -> Iterator[NDArray[np.uint64]]:
            nonlocal made
            missing = [k for k in indices if not _shard_path(shards, k).exists()]
            for _ in (map_shards or OnThisMachine())(make, missing):
                made += 1
            return (Shard.load_hashes(_shard_path(shards, k)) for k in indices)

        chosen = _first_occurrences(hashes_of, rules.size, config.shard_size)
        with writing(shards):
            _merge(directory, header, shards, chosen)
        shutil.rmtree(shards.parent)
    return Generated(open_split(directory, split), made)


_AT_LEAST = 100
"""Architectures drawn in the place of repetitions, however few these are: enough to tell whether
any are left.
"""


def _first_occurrences(
    hashes_of: Callable[[range], Iterable[NDArray[np.uint64]]], size: int, shard_size: int
) -> list[NDArray[np.bool_]]:
    """For each shard that a split needs: which of its architectures are among the first `size`
    different ones.

    Args:
        hashes_of: the hashes (G, 2) of some consecutive shards.
        size: of the split.
        shard_size: architectures per shard.

    Raises:
        InvalidGraphError: a further shard has hardly anything new.
    """
    hashes: list[NDArray[np.uint64]] = []
    found, more = 0, -(-size // shard_size)
    while True:
        hashes += hashes_of(range(len(hashes), len(hashes) + more))
        keys = np.concatenate(hashes).view("V16")[:, 0]
        keep = np.zeros(len(keys), dtype=bool)
        keep[np.unique(keys, return_index=True)[1]] = True
        before, found = found, int(keep.sum())
        if found >= size:
            keep &= np.cumsum(keep) <= size
            return np.split(keep, np.cumsum([len(its) for its in hashes])[:-1])
        if found - before < 0.01 * more * shard_size:  # of at least `_AT_LEAST` architectures
            raise InvalidGraphError(
                f"the rules of the split allow hardly more than {found} different architectures of"
                f" {size}; widen them, or make size smaller"
            )
        more = -(-max(size - found, _AT_LEAST) // shard_size)


def _shard_path(shards: Path, index: int) -> Path:
    return shards / f"{index:05d}.npz"


def _make(
    shards: Path,
    rules: SplitRules,
    seed: int,
    shard_size: int,
    forbidden: frozenset[str],
    index: int,
) -> None:
    """Makes shard `index`; runs in a worker."""
    settle()
    path = _shard_path(shards, index)
    shard = generate_shard(rules, seed, index, _size(rules, shard_size, index), forbidden)
    with writing(path):
        shard.save(path)


def _size(rules: SplitRules, shard_size: int, index: int) -> int:
    """Architectures in shard `index`: the last that the split needs if nothing repeats is
    smaller.
    """
    rest = rules.size - index * shard_size
    return min(shard_size, rest) if rest > 0 else shard_size


def _merge(
    directory: Path, header: Header, shards: Path, chosen: Sequence[NDArray[np.bool_]]
) -> None:
    """Writes the files of a split from those architectures of its shards that are `chosen`."""
    rejected: Counter[str] = Counter()
    redrawn: list[str] = []
    for k, keep in enumerate(chosen):
        notes = Shard.load_notes(_shard_path(shards, k))
        rejected.update(notes.rejected)
        if not keep.all():
            rejected["duplicate"] += int((~keep).sum())
        redrawn += notes.redrawn
    header = header.model_copy(
        update={"rejected": dict(sorted(rejected.items())), "redrawn": tuple(redrawn)}
    )

    def blocks() -> Iterator[Block]:
        for k, keep in enumerate(
            tqdm(chosen, desc=f"writing {header.split}", unit="shard", mininterval=1.0)
        ):
            if keep.any():
                shard = Shard.load(_shard_path(shards, k)).select(keep)
                yield Block(shard.code, shard.graphs, shard.hashes, shard.n_params, shard.checksums)

    write_split(directory, header, blocks())


def disjoint_hashes(
    directory: Path,
    splits: tuple[str, ...],
    rules: dict[str, SplitRules],
    seed: int,
    shard_size: int,
) -> dict[str, str]:
    """Canonical hashes of all architectures of `splits`, each with the id of one that has it.

    Generated splits are drawn afresh from their rules, which takes a second and makes no split wait
    for another; imported ones are read from `directory`. What a split drawn afresh must be disjoint
    from is left out of it in the same way.

    Raises:
        ConfigError: no rules for a split.
    """
    hashes: dict[str, str] = {}
    for name in splits:
        existing = _existing(directory, name)
        if existing is not None and existing.header.origin == "imported":
            keys = [raw.hex() for raw in existing.metadata(["hash"])["hash"].to_pylist()]
        else:
            its = rules_of(name, rules)
            forbidden = disjoint_hashes(directory, its.disjoint_from, rules, seed, shard_size)
            keys = _drawn_afresh(its, seed, shard_size, frozenset(forbidden))
        for i, key in enumerate(keys):
            hashes.setdefault(key, f"deepnets1m/{name}/{i}")
    return hashes


def _drawn_afresh(
    rules: SplitRules, seed: int, shard_size: int, forbidden: frozenset[str]
) -> list[str]:
    """Hashes of a split of these rules, in order."""
    hashes: list[NDArray[np.uint64]] = []

    def draw(indices: range) -> list[NDArray[np.uint64]]:
        drawn = [
            generate_shard(rules, seed, k, _size(rules, shard_size, k), forbidden).hashes
            for k in indices
        ]
        hashes.extend(drawn)
        return drawn

    chosen = _first_occurrences(draw, rules.size, shard_size)
    return [key for its, keep in zip(hashes, chosen, strict=True) for key in hexadecimal(its[keep])]


def _leaves_out(split: Split, forbidden: Mapping[str, str]) -> bool:
    """Whether a split has nothing forbidden, and nothing was drawn again that is not: then it is
    what would be generated.
    """
    keys = (raw.hex() for raw in split.metadata(["hash"])["hash"].to_pylist())
    return forbidden.keys() >= set(split.header.redrawn) and forbidden.keys().isdisjoint(keys)


def _existing(directory: Path, split: str) -> Split | None:
    if not all(path.exists() for path in paths_of(directory, split)):
        return None
    try:
        return open_split(directory, split)
    except DamagedFileError:
        return None  # to be made again
