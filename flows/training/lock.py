"""One training of a hypernetwork at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ghn.errors import GHNError
from ghn.files import remove_leftovers
from ghn.locks import held


class BusyError(GHNError):
    """Another process does the same work in the same place."""


@contextmanager
def only_one(output: Path) -> Iterator[None]:
    """Keeps a second training of the hypernetwork in `output` out, and clears what a killed one
    left half written; the lock goes with its process, however that ends.

    Raises:
        BusyError: another process trains it.
    """
    busy = BusyError(
        f"{output}: another process trains this hypernetwork; wait for it, or stop it (the same"
        " command then continues)"
    )
    with held(output / ".train.lock", busy):
        remove_leftovers(output)
        yield
