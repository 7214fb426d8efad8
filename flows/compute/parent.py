"""Processes that do not outlive whoever started them, however that ends (`kill -9` included).

Standard library only: a child calls this before it imports anything that takes long.
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def exit_with_parent(parent: int | None = None, number: int = signal.SIGTERM) -> None:
    """Has this process get signal `number` when its parent dies, or now if it has died already.

    Linux sends the signal when the *thread* that started this process ends, so threads that start
    processes must live as long.

    Args:
        parent: process id of whoever started this process; without it a parent that died before
            the call goes unnoticed.
        number: of the signal.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)
