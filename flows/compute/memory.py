"""Memory of processes: the peak of a stage, and what a worker gives back between items."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import psutil

PERIOD_SECONDS = 0.5

SLACK_MB = 256
"""What a worker may hold more than before without being looked through (10^6 bytes)."""


class PeakMemory:
    """Samples the resident memory of this process and its descendants while the context lasts.

    A rank of a training counts the others of its machine too.

    Pages that processes share (libraries, mostly) count once per process, so the sum is an upper
    bound.

    Attributes:
        mb: the largest sum seen, in MB (10^6 bytes).
    """

    def __init__(self) -> None:
        self.mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD_SECONDS):
            self._sample()

    def _sample(self) -> None:
        process = psutil.Process()
        if "LOCAL_RANK" in os.environ and (launcher := process.parent()) is not None:
            process = launcher
        total = process.memory_info().rss
        for child in process.children(recursive=True):
            try:
                total += child.memory_info().rss
            except psutil.Error:  # it has just ended
                continue
        self.mb = max(self.mb, total / 1e6)


class GivingBack:
    """A function of an item, after which this process holds no more than it needs.

    The C library keeps freed memory between pieces that are still in use, and Python keeps cycles
    of objects. After one network of gigabytes a worker would hold them until it ends, while its
    neighbour measures the next one. What a process holds before its first item it keeps.

    Args:
        function: what is called; it travels to a worker with this.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._held: float | None = None

    def __call__(self, item: Any) -> Any:
        """The function's result; returns memory to the system if the process has grown by more
        than `SLACK_MB` since it did so last, else this costs microseconds.
        """
        if self._held is None:
            self._held = _resident_mb()
        try:
            return self._function(item)
        finally:
            if _resident_mb() - self._held > SLACK_MB:
                gc.collect()
                if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # glibc's
                    trim(0)
                self._held = _resident_mb()


def _resident_mb() -> float:
    return float(psutil.Process().memory_info().rss / 1e6)
