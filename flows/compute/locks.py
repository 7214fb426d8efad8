"""Locks between processes of one machine that end with whoever holds them, however that ends.

(Also between machines, where the file system they share has `flock`; NFS 4 and Lustre do.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(
    path: Path,
    wait: bool = True,
    poll_seconds: float = 1.0,
    on_wait: Callable[[], object] = lambda: None,
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
    descriptors: list[int] = []
    lock = FileLock(path, poll_interval=poll_seconds, on_acquired=descriptors.append)
    with suppress(Timeout):
        lock.acquire(timeout=0)
    if not lock.is_locked and not wait:
        yield None
        return
    if not lock.is_locked:
        on_wait()
        lock.acquire()
    try:
        yield descriptors[0]
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits notices, and makes another
        lock.release()
