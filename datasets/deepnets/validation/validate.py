"""Proves that the splits on disk are right; `checks` has what is checked of every graph,
`statistics` what of a split.

Each check counts; a failure names the graphs. The work is done block by block on any number of
workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datasets.deepnets.generation.shard import hexadecimal
from datasets.deepnets.generation.workers import MapItems, OnThisMachine, settle
from datasets.deepnets.graphs.builder import Assembly, Structures
from datasets.deepnets.graphs.packing import GraphPack, offsets, pack
from datasets.deepnets.space.rules import PUBLISHED, SplitRules
from datasets.deepnets.space.table import ArchitectureTable, decode_row
from datasets.deepnets.store.metadata import metadata
from datasets.deepnets.store.split import Block, Split, open_split
from datasets.deepnets.validation import checks
from datasets.deepnets.validation.config import ValidateConfig
from datasets.deepnets.validation.statistics import (
    PUBLISHED_STATISTICS,
    SplitStatistics,
    disagreements,
    split_statistics,
)
from ghn.errors import ConfigError, GHNError, InvalidGraphError
from ghn.files import sha256


class ValidationError(GHNError):
    """A split is broken; the message names check and graphs."""


@dataclass
class Check:
    """The outcome of one check on one split.

    Attributes:
        split: the split.
        check: its name.
        checked: number of things looked at.
        failed: number of failures.
        examples: the first ones, by name.
        note: figures, or what was not decided.
    """

    split: str
    check: str
    checked: int = 0
    failed: int = 0
    examples: list[str] = field(default_factory=list)
    note: str = ""

    def add(self, checked: int, failures: Sequence[str]) -> None:
        """Counts some more."""
        self.checked += checked
        self.failed += len(failures)
        self.examples += failures[: max(0, 20 - len(self.examples))]


@dataclass(frozen=True)
class ValidationReport:
    """All checks and the statistics of all splits."""

    checks: list[Check]
    statistics: dict[str, SplitStatistics]

    @property
    def failures(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.failed]

    def raise_if_failed(self) -> None:
        """Raises:
        ValidationError: names every failed check and its first graphs.
        """
        if lines := [
            f"  {c.split}: {c.check} failed for {c.failed} of {c.checked}: {', '.join(c.examples)}"
            f" {c.note}".rstrip()
            for c in self.failures
        ]:
            raise ValidationError("\n".join(["DeepNets-1M is not valid:", *lines]))


def validate_splits(
    directory: str | Path,
    config: ValidateConfig | None = None,
    seed: int = 1,
    map_blocks: MapItems | None = None,
) -> ValidationReport:
    """Checks splits; see `ValidationReport.raise_if_failed`.

    Args:
        directory: where they are.
        config: what to check.
        seed: for the sample of the statistics.
        map_blocks: who checks the blocks; by default this process.

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
        outcomes, hashes[name] = _validate_split(
            split, config, map_blocks or OnThisMachine(title=f"validate {name}")
        )
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
    for start, of_block, crc in map_blocks(partial(_check_block, split, config.block), starts):
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


_Outcome = dict[str, tuple[int, list[str]]]


def _check_block(split: Split, size: int, start: int) -> tuple[int, _Outcome, NDArray[np.uint32]]:
    """Checks graphs start..start + size; runs in a worker."""
    settle()
    end = min(start + size, len(split))
    block = split.stored(start, end)
    ids = np.array([split.identifier(i) for i in range(start, end)])
    failed: dict[str, NDArray[np.bool_]] = {
        "graph_checksums": block.graphs.checksums(block.code) != block.checksums,
        "edge_counts": checks.edge_count(block.graphs),
    }
    sound = ~failed["edge_counts"]
    part = block.graphs if sound.all() else block.graphs.select(sound)
    nodes = checks.Nodes(part)
    for name, check in (
        ("primitive_range", checks.primitive_range),
        ("one_input", checks.one_input),
        ("topological_order", checks.topological_order),
        ("connected", checks.connected),
    ):
        failed[name] = _spread(sound, check(nodes))
    failed |= _check_meaning(split, block, start, end)
    outcome = {name: (len(bad), ids[bad].tolist()) for name, bad in failed.items()}
    return start, outcome, block.checksums


def _check_meaning(
    split: Split, block: Block, start: int, end: int
) -> dict[str, NDArray[np.bool_]]:
    """What the architectures' bytes say, against the graphs, the Parquet file and the rules."""
    table = ArchitectureTable.decode(block.code)
    columns = split.metadata_rows(start, end)
    n_params = np.stack(
        [columns[f"n_params_{k}"].to_numpy().astype(np.int64) for k in ("cifar10", "imagenet")],
        axis=1,
    )
    structures, buildable = _rebuild(block.code)
    rebuilt, hashes = pack(structures)
    recorded = [raw.hex() for raw in columns["hash"].to_pylist()]
    keys = np.array(recorded)
    exact = ~table.has("none", "cse")
    failed = {
        "disconnected": ~buildable,
        "metadata": _different_rows(
            columns, metadata(block.code, block.graphs, block.hashes, n_params, start)
        ),
        "hashes": _spread(buildable, keys[buildable] != np.array(hexadecimal(hashes))),
        "parameter_counts": checks.parameter_counts(table, n_params),
        "shape_consistency": _spread(
            buildable,
            checks.shape_consistency(checks.Nodes(rebuilt), structures.shape, exact[buildable]),
        ),
    }
    if split.header.origin == "generated":
        rules = SplitRules.model_validate(split.header.rules)
        failed["graph_of_architecture"] = _spread(
            buildable, _different(rebuilt, block.graphs.select(buildable))
        )
        failed["parameter_cap"] = checks.parameter_cap(n_params, rules)
        failed["drawing_rules"] = checks.drawing_rules(table, rules)
    return failed


def _different_rows(ours: pa.Table, theirs: pa.Table) -> NDArray[np.bool_]:
    """Which rows of the Parquet file are not what the architectures say; hashes are another
    check.
    """
    different = np.zeros(len(ours), dtype=bool)
    for column in ours.drop_columns(["hash"]).column_names:
        a, b = (table[column].combine_chunks() for table in (ours, theirs))
        if column in ("normal", "reduce"):  # dictionaries may be numbered differently
            a, b = (values.cast(pa.list_(pa.string())) for values in (a, b))
        if not a.equals(b):
            different |= np.array(
                [x != y for x, y in zip(a.to_pylist(), b.to_pylist(), strict=True)]
            )
    return different


def _rebuild(code: NDArray[np.uint8]) -> tuple[Structures, NDArray[np.bool_]]:
    assembly, buildable = Assembly(), np.ones(len(code), dtype=bool)
    for row, raw in enumerate(code):
        try:
            assembly.add(decode_row(raw.tobytes()))
        except InvalidGraphError:
            buildable[row] = False
    return assembly.finish(), buildable


def _different(a: GraphPack, b: GraphPack) -> NDArray[np.bool_]:
    """Which graphs differ."""
    different: NDArray[np.bool_] = np.asarray((a.n_nodes != b.n_nodes) | (a.n_edges != b.n_edges))
    if different.any():
        rest = _different(a.select(~different), b.select(~different))
        different[~different] = rest
        return different
    node, edge = offsets(a.n_nodes)[:-1], offsets(a.n_edges)[:-1]
    for x, y, start in (
        (a.primitive, b.primitive, node),
        (a.in_degree, b.in_degree, node),
        (a.back, b.back, edge),
    ):
        different |= np.add.reduceat((x != y).astype(np.int64), start) > 0
    return different


def _spread(where: NDArray[np.bool_], values: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`values` at the places that `where` marks, False elsewhere."""
    result = np.zeros(len(where), dtype=bool)
    result[where] = values
    return result


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


def as_json(report: ValidationReport) -> dict[str, Any]:
    """The report as plain values."""
    return {
        "valid": not report.failures,
        "checks": [vars(check) for check in report.checks],
        "statistics": {
            name: {
                "ours": _statistics_json(ours),
                "published": (
                    _statistics_json(PUBLISHED_STATISTICS[name])
                    if name in PUBLISHED_STATISTICS
                    else None
                ),
            }
            for name, ours in report.statistics.items()
        },
    }


def _statistics_json(statistics: SplitStatistics) -> dict[str, Any]:
    values = dict(vars(statistics))
    return {k: v._asdict() if hasattr(v, "_asdict") else v for k, v in values.items()}
