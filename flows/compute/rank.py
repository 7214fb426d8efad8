"""One rank of `flows.compute.ranks`: `python -m flows.compute.rank PARENT MODULE [ARGUMENT ...]`.

It ends with its launcher from its first moment on, before MODULE's imports, which take seconds, and
then calls MODULE's `main`. Stopped while it imports, it ends without a word: there is nothing to
keep, and whoever was asked to stop says so.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from flows.compute.parent import exit_with_parent

MESSAGES = "GHN_RANK_MESSAGES"
"""Variable with the directory where ranks leave what they have to say, for their launcher."""

LOST = "another rank ended, and this one could not go on without it"


def main() -> None:
    """Imports the module and calls its `main`, with the arguments that follow in sys.argv."""
    parent, module, *arguments = sys.argv[1:]
    # At once: a rank that first finishes its step would do so beside the next try of the training.
    exit_with_parent(int(parent), signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    imported = importlib.import_module(module)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.argv = [module, *arguments]
    imported.main()


def say(text: str) -> None:
    """Says why this rank ends, once for all ranks: the launcher prints what they leave, equal texts
    as one; below another launcher rank 0 alone speaks.
    """
    rank = os.environ.get("RANK", "0")
    if directory := os.environ.get(MESSAGES):
        Path(directory, rank).write_text(text)
    elif rank == "0":
        print(f"ghn: {text}", file=sys.stderr)


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    main()
