"""SHA-256 of source files, which are read again only when they may have changed.

A file whose size, inode and times (of change of its content and of its entry: the latter cannot be
set by a program) are as they were when it was hashed is the same file. What was hashed is
remembered in this process and, of data sets of 256 MB and more, in the user's cache directory.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from tqdm import tqdm

from ghn.errors import DamagedFileError
from ghn.files import sha256

LARGE = 256 * 2**20
"""Bytes; below, hashing takes less than a second."""

_SETTLED_NS = 2_000_000_000  # a file touched within a tick of the clock may change unseen
_known: dict[str, tuple[str, str]] = {}


def content_digest(files: Sequence[tuple[str, Path]], others: Sequence[str] = ()) -> str:
    """SHA-256 of (name, content) of every file in the order given, and of the other strings.

    Raises:
        DamagedFileError: a file is gone or cannot be read.
    """
    hashes = file_digests([path for _, path in files])
    sha = hashlib.sha256(repr(tuple(others)).encode())
    for (name, _), content in zip(files, hashes, strict=True):
        sha.update(f"{name!r} {content}\n".encode())
    return sha.hexdigest()


def file_digests(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file's content.

    Raises:
        DamagedFileError: a file is gone or cannot be read.
    """
    began = time.time_ns()
    names = [str(path.absolute()) for path in paths]
    try:
        stats = [path.stat() for path in paths]
        signatures = [
            f"{s.st_size} {s.st_ino} {s.st_dev} {s.st_mtime_ns} {s.st_ctime_ns}" for s in stats
        ]
        with _remembered(sum(s.st_size for s in stats) >= LARGE) as database:
            _recall(database, names, signatures)
            found = [_hash(*pair) for pair in zip(names, signatures, strict=True)]
            new = [k for k, content in enumerate(found) if content is None]
            hashes = dict(zip(new, _hash_all([names[k] for k in new]), strict=True))
            settled = [
                (names[k], signatures[k], content)
                for k, content in hashes.items()
                if max(stats[k].st_mtime_ns, stats[k].st_ctime_ns) < began - _SETTLED_NS
            ]
            _known.update({name: (signature, content) for name, signature, content in settled})
            _store(database, settled)
            return [content or hashes[k] for k, content in enumerate(found)]
    except OSError as error:
        raise DamagedFileError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _hash(name: str, signature: str) -> str | None:
    known = _known.get(name)
    return known[1] if known and known[0] == signature else None


def _hash_all(names: Sequence[str]) -> list[str]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes = pool.map(sha256, names)
        return list(tqdm(hashes, "hashing images", len(names), leave=False, disable=None, delay=1))


@contextmanager
def _remembered(large: bool) -> Iterator[sqlite3.Connection | None]:
    """The database, or none: it only saves time, so that whatever keeps it away is no error."""
    if not large:
        yield None
        return
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ghn"
        home.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(home / "digests.sqlite", timeout=5)
    except (OSError, RuntimeError, sqlite3.Error):  # a user may have no home
        yield None
        return
    with closing(connection):
        yield connection


def _recall(
    database: sqlite3.Connection | None, names: Sequence[str], signatures: Sequence[str]
) -> None:
    if database is None:
        return
    try:
        for name, signature in zip(names, signatures, strict=True):
            if _hash(name, signature) is None:
                query = "SELECT signature, sha256 FROM files WHERE name = ? AND signature = ?"
                if row := database.execute(query, (name, signature)).fetchone():
                    _known[name] = row
    except sqlite3.Error:  # no such table yet, or not a database
        return


def _store(database: sqlite3.Connection | None, rows: Sequence[tuple[str, str, str]]) -> None:
    if database is None or not rows:
        return
    try:
        with database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS"
                " files (name TEXT PRIMARY KEY, signature TEXT, sha256 TEXT)"
            )
            database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)
    except sqlite3.Error:
        return
