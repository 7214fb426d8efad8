"""Requests to stop a run: Ctrl-C and SIGTERM end it after the current step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SAME_REQUEST_SECONDS = 3.0
"""A launcher passes on what the rank got by itself: within so long it is the same Ctrl-C."""


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; only in the main thread.

    The grace is a step, however long it takes: a SIGTERM never interrupts one, and whoever ends us
    by SIGINT and then SIGTERM asks for the same thing twice. A second Ctrl-C interrupts at once.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    first_interrupt = 0.0

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal first_interrupt
        stop.set()
        if number == signal.SIGINT:
            now = time.monotonic()
            first_interrupt = first_interrupt or now
            if now - first_interrupt > SAME_REQUEST_SECONDS:
                raise KeyboardInterrupt("interrupted within a step; the same command continues")

    old = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
