"""A stage runs once at a time in a tree, and begins without what a killed run left half written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.compute.locks import locked
from ghn.errors import GHNError
from ghn.files import remove_temporaries


class StageInUseError(GHNError):
    """The same stage runs already in this tree."""


@contextmanager
def alone(label: str, outputs: Iterable[str]) -> Iterator[None]:
    """Holds others off the stage `label` of this tree, and clears its `outputs`.

    Raises:
        StageInUseError: it runs already, here or in another container.
    """
    with locked(Path(".dvc/tmp/stage-locks") / label, wait=False) as lock:
        if lock is None:
            raise StageInUseError(f"stage {label} runs already in this tree; wait until it ends")
        remove_temporaries(*map(Path, outputs))
        yield
