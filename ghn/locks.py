"""Locks between processes of one machine that end with whoever holds them, however that ends.

(Also between machines, where the file system they share has `flock`; NFS 4 and Lustre do. Windows
has no such locks: there, everybody gets one.)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(
    path: Path,
    wait: bool = True,
    poll_seconds: float = 1.0,
    on_wait: Callable[[], object] | None = None,
) -> Iterator[int | None]:
    """Holds the lock file `path`, which is made for it and removed at the end.

    Yields its descriptor, or None if another process holds it and `wait` is not set. A child that
    inherits the descriptor goes on holding the lock if this process is killed.

    Args:
        path: the lock file.
        wait: until it is free.
        poll_seconds: between two looks.
        on_wait: called once, if there is anything to wait for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while (descriptor := _try(path)) is None and wait:
        if on_wait is not None:
            on_wait()
            on_wait = None
        time.sleep(poll_seconds)  # not within flock: signals must reach us
    if descriptor is None:
        yield None
        return
    try:
        yield descriptor
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def held(path: Path, busy: Exception) -> Iterator[None]:
    """Holds the lock file `path`, or raises `busy` if another process does."""
    with locked(path, wait=False) as descriptor:
        if descriptor is None:
            raise busy
        yield


def _try(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if sys.platform == "win32":
        return descriptor
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it before has removed it: then it is no longer what others will lock.
        if path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
