"""Peak memory of a stage: this process and all its workers, sampled."""

from __future__ import annotations

import os
import threading
from types import TracebackType

import psutil

PERIOD_SECONDS = 0.5


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
