"""Rows that survive a kill, by a digest of all that they depend on.

A cache is no result: deleting it costs time only, and what is damaged in it is computed again. So
that nothing damaged is ever taken for a row, each entry has a digest of itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from flows.rows.digest import digest
from flows.rows.schema import Row
from ghn.errors import GHNError
from ghn.files import atomic_path, writing
from ghn.locks import held


class Cache(Protocol):
    """Rows by key."""

    def get(self, key: str) -> list[Row] | None:
        """The rows of `key`, if they are there and whole."""

    def put(self, key: str, rows: list[Row]) -> None:
        """Keeps the rows; they are on their way to the disk when this returns."""


class CacheInUseError(GHNError):
    """Another process appends to a cache at this moment."""


class RowCache:
    """Entries as lines `[digest, [key, rows]]` of one file, appended as they arrive.

    A torn last line (a kill while writing) and damaged lines are dropped, and no other is ever at
    risk: a torn end is cut off, of other damage the file is written anew beside itself. One process
    appends at a time (workers hand rows to the process that owns the cache); a lock holds others
    off.

    Raises:
        CacheInUseError: another process has the cache open.
        OSError: a damaged file cannot be written anew; it is as it was.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        busy = CacheInUseError(
            f"{self.path} is in use: the same stage runs already in this tree; wait for it"
        )
        with ExitStack() as lock:
            lock.enter_context(held(self.path.with_name(self.path.name + ".lock"), busy))
            self._rows = self._read()
            self._file = self.path.open("ab")
            self._lock = lock.pop_all()

    def _read(self) -> dict[str, list[Row]]:
        """The rows of the file, which has no damaged line afterwards."""
        with self.path.open("a+b") as file:
            file.seek(0)
            lines = file.readlines()
        entries = [_entry(line) for line in lines]
        whole = [line for line, entry in zip(lines, entries, strict=True) if entry is not None]
        if len(whole) < len(lines):
            damaged = len(lines) - len(whole)
            tqdm.write(f"{self.path}: lines that are damaged or cut: {damaged}; computed again")
            if whole == lines[: len(whole)]:
                os.truncate(self.path, sum(map(len, whole)))
            else:
                with atomic_path(self.path) as temporary:
                    temporary.write_bytes(b"".join(whole))
        return dict(entry for entry in entries if entry is not None)

    def get(self, key: str) -> list[Row] | None:
        """The rows of `key`, if they were computed before."""
        rows = self._rows.get(key)
        return None if rows is None else [dict(row) for row in rows]

    def put(self, key: str, rows: list[Row]) -> None:
        """Keeps `rows`; they are on their way to the disk when this returns."""
        self._rows[key] = rows
        with writing(self.path):
            self._file.write(json.dumps([digest(key, rows), [key, rows]]).encode() + b"\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file, and others may open it."""
        with self._lock, writing(self.path):
            self._file.close()

    def __enter__(self) -> RowCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _entry(line: bytes) -> tuple[str, list[Row]] | None:
    """Key and rows of a line; None if it is not as it was written."""
    try:
        expected, (key, rows) = json.loads(line)
        whole = line.endswith(b"\n") and digest(key, rows) == expected
    except (ValueError, TypeError, RecursionError):
        return None
    return (key, rows) if whole else None


class FileCache:
    """Entries as files `<two digits>/<key>.json` of a directory, which workers may write too."""

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)

    def path(self, key: str) -> Path:
        """The file of an entry."""
        return self.directory / key[:2] / f"{key}.json"

    def get(self, key: str) -> list[Row] | None:
        """The rows of `key`, if they were computed before."""
        path = self.path(key)
        try:
            entry = _entry(path.read_bytes())
        except FileNotFoundError:
            return None
        if entry is None or entry[0] != key:
            tqdm.write(f"{path} is damaged; it is computed again")
            return None
        return entry[1]

    def put(self, key: str, rows: list[Row]) -> None:
        """Keeps `rows`, whole or not at all."""
        with atomic_path(self.path(key)) as temporary:
            temporary.write_text(json.dumps([digest(key, rows), [key, rows]]) + "\n")
