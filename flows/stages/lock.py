"""A stage runs once at a time in a tree, and begins without what a killed run left half written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ghn.errors import GHNError
from ghn.files import remove_leftovers
from ghn.locks import held


class StageInUseError(GHNError):
    """The same stage runs already in this tree."""


@contextmanager
def alone(label: str, outputs: Iterable[str]) -> Iterator[None]:
    """Holds others off the stage `label` of this tree, and clears its `outputs`.

    Raises:
        StageInUseError: it runs already, here or in another container.
    """
    busy = StageInUseError(f"stage {label} runs already in this tree; wait until it ends")
    with held(Path(".dvc/tmp/stage-locks") / label, busy):
        remove_leftovers(*map(Path, outputs))
        yield
