"""Result rows: what every row carries, Parquet files that are whole or absent, and rows that
survive a kill.

A stage that works on many architectures asks a `RowCache` for the rows it has already, computes the
others (in any order), puts each into the cache as it arrives, and at the end writes all of them
with `write_rows`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.rows.provenance import revision
from ghn.errors import DamagedFileError
from ghn.files import atomic_path

Row = dict[str, Any]

IDENTITY: dict[str, pa.DataType] = {
    "architecture": pa.string(),  # deepnets1m/test/3 or a torchvision name
    "split": pa.string(),  # val, test, wide, deep, dense, bnfree, torchvision
    "ghn": pa.string(),  # the hypernetwork or initialisation: ghn3, randinit, orthogonal, ...
    "seed": pa.int64(),
    "revision": pa.string(),  # git revision of the code
    "data_hash": (
        pa.string()
    ),  # digest of hypernetwork, architectures and images that the row was computed from
    "error": pa.string(),  # null where all went well
}
"""The columns that every results file begins with (design section 2)."""


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
        "revision": revision(),
        "data_hash": data_hash,
        "error": error,
    }


def write_rows(path: str | Path, rows: Iterable[Row], columns: Mapping[str, pa.DataType]) -> None:
    """Writes `rows` as Parquet: the identity columns, then `columns`, values absent from a row as
    null.

    Raises:
        ValueError: a row has a column that is not declared, or an identity column is missing.
    """
    schema = pa.schema({**IDENTITY, **columns}.items())
    rows = list(rows)
    for row in rows:
        if unknown := row.keys() - set(schema.names):
            raise ValueError(
                f"{path}: undeclared columns {sorted(unknown)} in the row of"
                f" {row.get('architecture')}"
            )
        if missing := IDENTITY.keys() - row.keys():
            raise ValueError(
                f"{path}: the row of {row.get('architecture')} lacks {sorted(missing)}"
            )
    table = pa.Table.from_pylist(rows, schema=schema)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_rows(path: str | Path, columns: Sequence[str] | None = None) -> list[Row]:
    """The rows of a results file.

    Raises:
        DamagedFileError: the file is missing or not Parquet; the message says which stage command
            makes it anew.
    """
    try:
        rows: list[Row] = pq.read_table(path, columns=columns).to_pylist()
    except FileNotFoundError:
        raise DamagedFileError(f"{path} does not exist; `dvc repro` makes it") from None
    except pa.ArrowInvalid as error:
        raise DamagedFileError(
            f"{path} is not a readable Parquet file ({error}); delete it and run `dvc repro`"
        ) from None
    return rows


def digest(*parts: Any) -> str:
    """32 hexadecimal digits that identify JSON-like `parts` (order of dictionary keys aside)."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@cache
def code_digest(*paths: str) -> str:
    """Digest of the Python sources below `paths` (files or packages, relative to the root of the
    tree).
    """
    root = Path(__file__).resolve().parents[2]
    hasher = hashlib.blake2b(digest_size=16)
    for path in paths:
        target = root / path
        for file in [target] if target.is_file() else sorted(target.rglob("*.py")):
            hasher.update(
                file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0"
            )
    return hasher.hexdigest()


class RowCache:
    """Rows by a digest of all that they depend on, as JSON lines that are appended to as rows
    arrive.

    The file is a cache, not a result: a torn last line (a kill while writing) is dropped, and
    deleting the file costs
    time only. One process appends at a time (workers hand rows to the process that owns the cache).
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._rows: dict[str, Row] = {}
        whole = 0
        if self.path.exists():
            with self.path.open("rb") as file:
                for line in file:
                    try:
                        key, row = json.loads(line)
                    except (ValueError, TypeError):
                        break
                    if not line.endswith(b"\n"):
                        break
                    self._rows[key] = row
                    whole += len(line)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab")
        self._file.truncate(whole)

    def get(self, key: str) -> Row | None:
        """The row of `key`, if it was computed before."""
        row = self._rows.get(key)
        return None if row is None else dict(row)

    def put(self, key: str, row: Row) -> None:
        """Keeps `row`; it is on its way to the disk when this returns."""
        self._rows[key] = row
        self._file.write(json.dumps([key, row]).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> RowCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def finite(value: float | None) -> float | None:
    """`value`, or None where it is not a finite number (JSON has no NaN, and a mean should not
    become one).
    """
    return value if value is not None and math.isfinite(value) else None
