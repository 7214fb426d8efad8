"""One training of a hypernetwork at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ghn.errors import GHNError


class BusyError(GHNError):
    """Another process does the same work in the same place."""


@contextmanager
def only_one(output: Path) -> Iterator[None]:
    """Keeps a second training of the hypernetwork in `output` out; the lock goes with its process,
    however that ends.

    Raises:
        BusyError: another process trains it.
    """
    import fcntl  # not on Windows, where there is nothing of the kind

    output.mkdir(parents=True, exist_ok=True)
    path = output / ".train.lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino
        except BlockingIOError:
            held = False
        if not held:  # or the process that held it has just removed it
            raise BusyError(
                f"{output}: another process trains this hypernetwork; wait for it, or stop it (the"
                " same command then continues)"
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
