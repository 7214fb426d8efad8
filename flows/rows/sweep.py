"""One row per architecture: fanned out, cached as rows arrive, errors as rows, in the order of the
architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from flows.compute.fanout import FanOut, fan_out
from flows.networks.targets import Target
from flows.rows.results import Row, RowCache, code_digest, digest, identity
from flows.settings import paths
from ghn.errors import GHNError


class MeasureError(GHNError):
    """An architecture could not be measured; the message is the original error's type and text."""


Measure = Callable[[Target], Row]
"""Computes the columns of an architecture's row besides the identity columns. Runs in a worker."""


@dataclass(frozen=True)
class Provenance:
    """The identity columns that all rows of a sweep share, and the seed."""

    ghn: str
    seed: int
    data_hash: str


def sweep(
    stage: str,
    targets: Sequence[Target],
    measure: Measure,
    provenance: Provenance,
    settings: Any,
    fanout: FanOut,
    code: Sequence[str],
) -> list[Row]:
    """A row per target, in their order; rows that the cache has are not computed again.

    An exception of `measure`, or a worker that died, becomes a row with an error, and is tried
    again next time.

    Args:
        stage: names the cache and the progress bar.
        targets: the architectures.
        measure: see `Measure`; it must not depend on anything that is not in `provenance`,
            `settings` or `code`.
        provenance: goes into each row.
        settings: JSON-like; what else the rows depend on.
        fanout: where to compute.
        code: source files and packages that the rows depend on, relative to the root of the tree.
    """

    def row_of(target: Target, columns: Row | Exception) -> Row:
        error: Exception | str | None = columns if isinstance(columns, Exception) else None
        if isinstance(error, MeasureError):
            error = str(error)
        head = identity(
            target.id, target.split, provenance.ghn, provenance.seed, provenance.data_hash, error
        )
        return head | ({} if isinstance(columns, Exception) else columns)

    common = (
        stage,
        provenance.ghn,
        provenance.seed,
        provenance.data_hash,
        settings,
        code_digest(*code),
    )
    keys = {target: digest(*common, target.id) for target in targets}
    rows: dict[Target, Row] = {}
    with RowCache(paths.CACHE / f"{stage}.jsonl") as cache:
        rows.update(
            {target: row for target, key in keys.items() if (row := cache.get(key)) is not None}
        )
        # The largest networks are at the end of the list (torchvision's): first, so that no
        # worker is left with one.
        rest = [target for target in reversed(targets) if target not in rows]
        if rows:
            tqdm.write(f"{stage}: {len(rows)} of {len(targets)} rows are there already")
        outcomes = fan_out(
            _Pair(measure),
            rest,
            fanout,
            describe=lambda target: target.id,
            failed=_failed,
            title=stage,
        )
        for target, columns in outcomes if rest else ():
            rows[target] = row_of(target, columns)
            if not isinstance(columns, Exception):
                cache.put(keys[target], rows[target])
    return [rows[target] for target in targets]


@dataclass(frozen=True)
class _Pair:
    """Results come in order of completion, so each brings its target along."""

    measure: Measure

    def __call__(self, target: Target) -> tuple[Target, Row | Exception]:
        try:
            return target, self.measure(target)
        except Exception as error:  # not every exception survives the way between processes
            return target, MeasureError(f"{type(error).__name__}: {error}")


def _failed(target: Target, error: Exception) -> tuple[Target, Row | Exception]:
    return target, error


def failures(rows: Sequence[Row]) -> list[Row]:
    """The rows with an error."""
    return [row for row in rows if row["error"] is not None]


def report_failures(stage: str, rows: Sequence[Row], show: int = 10) -> None:
    """Prints how many architectures have a row, how many of these an error, and the first
    errors.
    """
    failed = failures(rows)
    tqdm.write(f"{stage}: {len(rows)} rows, {len(failed)} with an error")
    for row in failed[:show]:
        tqdm.write(f"  {row['architecture']}: {row['error'].splitlines()[0]}")
    if len(failed) > show:
        tqdm.write(f"  and {len(failed) - show} more")
