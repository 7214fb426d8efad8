"""One training of a hypernetwork at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.compute.locks import locked
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
    with locked(output / ".train.lock", wait=False) as lock:
        if lock is None:
            raise BusyError(
                f"{output}: another process trains this hypernetwork; wait for it, or stop it (the"
                " same command then continues)"
            )
        yield
