"""Getting the next step's data ready while the current step computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetched(Generic[Item]):
    """An iterator whose items a thread prepares, up to `depth` of them ahead.

    Building networks and augmenting images is Python work, and the training step spends its time in
    kernels that run without the interpreter lock. An exception of the source appears in its place,
    after the items before it.
    """

    def __init__(self, source: Iterator[Item], depth: int = 2) -> None:
        self._queue: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._fill, args=(source,), name="prefetch", daemon=True
        )
        self._thread.start()

    def _fill(self, source: Iterator[Item]) -> None:
        try:
            for item in source:
                if not self._put((item, None)):
                    break
            else:
                self._put((None, StopIteration()))
        except BaseException as error:
            self._put((None, error))
        finally:
            if close := getattr(source, "close", None):
                close()

    def _put(self, entry: tuple[Item | None, BaseException | None]) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        item, error = self._queue.get()
        if error is not None:
            raise error
        return item  # type: ignore[return-value]

    def close(self) -> None:
        """Stops the thread and closes the source."""
        self._stop.set()
        self._thread.join()
