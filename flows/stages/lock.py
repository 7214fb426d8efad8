"""A stage runs once at a time in a tree, and begins without what a killed run left half written."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ghn.errors import GHNError


class StageInUseError(GHNError):
    """The same stage runs already in this tree."""


@contextmanager
def alone(label: str, outputs: Iterable[str]) -> Iterator[None]:
    """Holds others off the stage `label` of this tree, and clears its `outputs`.

    Raises:
        StageInUseError: it runs already, here or in another container.
    """
    path = Path(".dvc/tmp/stage-locks") / label
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StageInUseError(
                f"stage {label} runs already in this tree; wait until it ends"
            ) from None
        for output in map(Path, outputs):
            leftovers = output.parent.glob(f".tmp-*-{output.name}")
            for leftover in (*leftovers, *output.rglob(".tmp-*")):
                leftover.unlink(missing_ok=True)
        yield
