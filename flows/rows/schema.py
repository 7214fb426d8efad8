"""Result rows: what every row carries, and Parquet files of them that are whole or absent.

A results file depends on its inputs alone, so equal inputs give equal bytes: what a clock said is
kept beside it, in results/timings/, which is no output of any stage.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.rows.digest import digest
from ghn.errors import DamagedFileError
from ghn.files import atomic_path

Row = dict[str, Any]

_DIGEST = b"rows"
"""Key of a file's metadata: the digest of its rows."""

IDENTITY: dict[str, pa.DataType] = {
    "architecture": pa.string(),  # deepnets1m/test/3 or a torchvision name
    "split": pa.string(),  # val, test, wide, deep, dense, bnfree, torchvision
    "ghn": pa.string(),  # the hypernetwork or initialisation: ghn3, randinit, orthogonal, ...
    "seed": pa.int64(),
    "data_hash": pa.string(),  # digest of the hypernetwork, architecture and images it came from
    "error": pa.string(),  # null where all went well
}
"""The columns that every results file begins with."""

TIMES: dict[str, pa.DataType] = {
    name: pa.float64()
    for name in (
        "seconds",
        "graph_seconds",
        "predict_seconds",
        "init_seconds",
        "train_seconds",
        "steps_per_second",
    )
}
"""What a clock said: columns that rows may have and results files have not."""


def identity(
    architecture: str,
    split: str,
    ghn: str,
    seed: int,
    data_hash: str,
    error: BaseException | str | None = None,
) -> Row:
    """The identity columns of a row; an exception becomes `Type: message`."""
    if isinstance(error, BaseException):
        error = f"{type(error).__name__}: {error}".strip()
    return {
        "architecture": architecture,
        "split": split,
        "ghn": ghn,
        "seed": seed,
        "data_hash": data_hash,
        "error": error,
    }


def write_rows(path: str | Path, rows: Iterable[Row], columns: Mapping[str, pa.DataType]) -> None:
    """Writes `rows` as Parquet: the identity columns, then `columns`, values absent from a row as
    null; columns of `TIMES` go into a file of their own (`timings_path`).

    Raises:
        ValueError: a row has a column that is not declared, or an identity column is missing.
    """
    rows, path = list(rows), Path(path)
    declared = {**IDENTITY, **columns}
    for row in rows:
        name = row.get("architecture")
        if unknown := row.keys() - declared.keys() - TIMES.keys():
            raise ValueError(f"{path}: undeclared columns {sorted(unknown)} in the row of {name}")
        if missing := IDENTITY.keys() - row.keys():
            raise ValueError(f"{path}: the row of {name} lacks {sorted(missing)}")
    times = {name: type_ for name, type_ in TIMES.items() if any(name in row for row in rows)}
    if times:
        _write(timings_path(path), rows, {**IDENTITY, **times})
    _write(path, rows, declared)


def timings_path(path: Path) -> Path:
    """The file that holds the times of the rows in the results file `path`."""
    return path.parent / "timings" / path.name


def _write(path: Path, rows: Sequence[Row], columns: Mapping[str, pa.DataType]) -> None:
    schema = pa.schema(columns.items())
    table = pa.Table.from_pylist(_only(rows, columns), schema=schema)
    table = table.replace_schema_metadata({_DIGEST: _content(table)})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def _content(table: pa.Table) -> str:
    """Digest of a table's column names and values, which no checksum of pages covers alone."""
    return digest(table.column_names, table.to_pylist())


def _only(rows: Sequence[Row], columns: Collection[str]) -> list[Row]:
    return [{name: value for name, value in row.items() if name in columns} for row in rows]


def read_rows(path: str | Path, columns: Sequence[str] | None = None) -> list[Row]:
    """The rows of a results file.

    Raises:
        DamagedFileError: the file is missing, or not the Parquet file that was written (pages have
            checksums, the whole a digest); the message says what makes it anew.
    """
    again = "delete it and run `dvc repro`"
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        whole = (table.schema.metadata or {}).get(_DIGEST) == _content(table).encode()
        rows: list[Row] = (table if columns is None else table.select(columns)).to_pylist()
    except FileNotFoundError:
        raise DamagedFileError(f"{path} does not exist; `dvc repro` makes it") from None
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DamagedFileError(
            f"{path} is not a readable Parquet file ({reason}); {again}"
        ) from None
    if not whole:
        raise DamagedFileError(f"{path} is not as it was written, its digest differs; {again}")
    return rows


def sound(rows: Iterable[Row]) -> list[Row]:
    """The rows without an error."""
    return [row for row in rows if row["error"] is None]


def failures(rows: Iterable[Row]) -> list[Row]:
    """The rows with an error."""
    return [row for row in rows if row["error"] is not None]


def finite(value: float | None) -> float | None:
    """`value`, or None where it is not a finite number (JSON has no NaN, and a mean should not
    become one).
    """
    return value if value is not None and math.isfinite(value) else None
