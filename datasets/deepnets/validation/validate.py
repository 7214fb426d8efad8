"""Proves that the splits on disk are right; `checks` has what is checked of every graph,
`statistics` what of a split.

Each check counts; a failure names the graphs. The work is done block by block on any number of
workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.deepnets.generation.workers import MapItems, OnThisMachine
from datasets.deepnets.graphs.split import Split, open_split
from datasets.deepnets.space.rules import PUBLISHED, SplitRules
from datasets.deepnets.validation.blocks import check_block
from datasets.deepnets.validation.config import ValidateConfig
from datasets.deepnets.validation.report import Check, ValidationReport
from datasets.deepnets.validation.statistics import (
    PUBLISHED_STATISTICS,
    disagreements,
    split_statistics,
)
from ghn.errors import ConfigError
from ghn.files import sha256


def validate_splits(
    directory: str | Path,
    config: ValidateConfig | None = None,
    seed: int = 1,
    map_blocks: Callable[[str], MapItems] | None = None,
) -> ValidationReport:
    """Checks splits; see `ValidationReport.raise_if_failed`.

    Args:
        directory: where they are.
        config: what to check.
        seed: for the sample of the statistics.
        map_blocks: from a split's name to who checks its blocks; by default this process.

    Raises:
        ConfigError: a split is not there, or there is none.
        DamagedFileError: a split cannot be opened.
    """
    directory, config = Path(directory), config or ValidateConfig()
    names = config.splits or tuple(sorted(path.stem for path in directory.glob("*.h5")))
    if not names:
        raise ConfigError(
            f"{directory} holds no split to validate; `ghn generate --split train` makes one"
        )
    splits = {name: open_split(directory, name) for name in names}
    report = ValidationReport([], {})
    hashes: dict[str, NDArray[np.void]] = {}
    for name, split in splits.items():
        workers = map_blocks(name) if map_blocks else OnThisMachine(title=f"validate {name}")
        outcomes, hashes[name] = _validate_split(split, config, workers)
        report.checks.extend(outcomes)
        report.statistics[name] = statistics = split_statistics(split, config.sample, seed)
        if name in PUBLISHED_STATISTICS and _as_published(split):
            check = Check(name, "statistics")
            check.add(3, disagreements(name, statistics))
            report.checks.append(check)
    for name, split in splits.items():
        others = (
            SplitRules.model_validate(split.header.rules).disjoint_from
            if split.header.rules
            else ()
        )
        for other in others:
            if other in splits:
                report.checks.append(_disjoint(split, splits[other], hashes[name], hashes[other]))
    return report


def _as_published(split: Split) -> bool:
    """Whether the split is drawn by the published rules, its size aside."""
    rules = {k: v for k, v in split.header.rules.items() if k not in ("size", "seed")}
    published = PUBLISHED[split.name].model_dump(mode="json", exclude={"size", "seed"})
    return rules == published or split.header.origin == "imported"


def _validate_split(
    split: Split, config: ValidateConfig, map_blocks: MapItems
) -> tuple[list[Check], NDArray[np.void]]:
    name = split.name
    files = Check(name, "file_checksums")
    files.add(1, [] if sha256(split.h5_path) == split.h5_sha256 else [str(split.h5_path)])
    starts = range(0, len(split), config.block)
    found: dict[str, Check] = {}
    checksums: dict[int, NDArray[np.uint32]] = {}
    for start, of_block, crc in map_blocks(partial(check_block, split, config.block), starts):
        checksums[start] = crc
        for check, (checked, failures) in of_block.items():
            found.setdefault(check, Check(name, check)).add(checked, failures)
    content = hashlib.sha256(
        b"".join(checksums[s].astype("<u4").tobytes() for s in starts)
    ).hexdigest()
    files.add(
        1,
        [] if content == split.content else [f"{split.h5_path} (digest of the graphs' checksums)"],
    )
    hashes = _hashes(split)
    tolerated = config.max_duplicates if split.header.origin == "imported" else 0.0
    for outcome in found.values():
        outcome.examples.sort()
    return [files, *found.values(), _duplicates(split, hashes, tolerated)], hashes


def _hashes(split: Split) -> NDArray[np.void]:
    column = split.metadata(["hash"])["hash"].combine_chunks()
    return np.frombuffer(
        column.buffers()[1], dtype="V16", count=len(split), offset=16 * column.offset
    )


def _duplicates(split: Split, hashes: NDArray[np.void], tolerated: float) -> Check:
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    repeated = np.flatnonzero(first[inverse] != np.arange(len(hashes)))
    rate = len(repeated) / len(hashes)
    check = Check(
        split.name, "duplicates", len(hashes), note=f"{len(repeated)} repetitions, rate {rate:.5f}"
    )
    if rate > tolerated:
        examples = [
            f"{split.identifier(int(i))} = {split.identifier(int(first[inverse[i]]))}"
            for i in repeated[:20]
        ]
        check.failed, check.examples = len(repeated), examples
    return check


def _disjoint(
    split: Split, other: Split, hashes: NDArray[np.void], theirs: NDArray[np.void]
) -> Check:
    check = Check(split.name, f"disjoint_from_{other.name}", len(hashes))
    where = {raw.tobytes(): i for i, raw in enumerate(theirs)}
    offenders = np.flatnonzero(np.isin(hashes.view("S16"), theirs.view("S16")))
    pairs = [
        (int(i), where[hashes[i].tobytes()]) for i in offenders if hashes[i].tobytes() in where
    ]
    check.failed = len(pairs)
    check.examples = [f"{split.identifier(i)} = {other.identifier(j)}" for i, j in pairs[:20]]
    mine = {key for key in split.header.redrawn if bytes.fromhex(key) in where}
    check.note = f"{len(mine)} redrawn when the split was generated"
    if check.failed:
        check.note += f"; `ghn generate --split {split.name}` draws them again"
    return check
