"""One function over many items: on this machine's cores, or on a Ray cluster.

    for row in fan_out(evaluate_one, architectures, FanOut(workers=8)):
        rows.append(row)

What is worth knowing:

- Results come as they are completed, not in the order of the items; a caller that needs an order
  sorts the rows.
- The function travels to a worker once, however many items there are, so it may hold a model
  (`functools.partial`).
- A worker that dies (out of memory, a crash in a kernel, `kill -9`) takes nothing else with it:
  finished results are kept and its item is tried again. The last try of an item runs alone, so it
  has the machine's memory to itself.
- An exception that the function raises is the caller's business: it is raised here, at once, unless
  `failed` turns it into a result. It is not retried, since the same input gives the same exception.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

from tqdm import tqdm

from flows.compute.backend import Backend, LostWorkerError, Submit
from flows.compute.cluster import cluster
from flows.compute.memory import GivingBack
from flows.compute.processes import processes
from flows.settings.fanout import FanOut

__all__ = ["FanOut", "LostWorkerError", "fan_out"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def fan_out(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    config: FanOut | None = None,
    *,
    describe: Callable[[Item], str] = str,
    failed: Callable[[Item, Exception], Result] | None = None,
    title: str | None = None,
) -> Iterator[Result]:
    """Yields `function(item)` for each item in order of completion, with a progress bar.

    Args:
        function: Called in a worker; it and the items travel by cloudpickle. With one local worker
            it is called in this process.
        items: What to work on; consumed lazily, so a generator of a million items is fine.
        config: Where; by default all cores of this machine.
        describe: Names an item in messages.
        failed: Called here with an item and the exception that its function raised, or with a
            `LostWorkerError`; what it returns is yielded as the item's result. Without it the
            exception is raised and the rest is cancelled.
        title: Of the progress bar; by default the function's name.

    Raises:
        LostWorkerError: A worker died on every try of an item, and `failed` is not given.
        ConfigError: The Ray backend is asked for and Ray is not installed or not reachable.
    """
    config = config or FanOut()
    total = len(items) if isinstance(items, Sized) else None
    call = GivingBack(function)
    place: Backend = (
        cluster(call, config) if config.backend == "ray" else processes(call, config, total)
    )
    with place as (submit, workers), _progress(title or _name(function), total) as progress:
        for item, outcome in _completed(submit, items, workers, config.retries, describe):
            progress.update()
            if not isinstance(outcome, Exception):
                yield outcome
            elif failed is not None:
                yield failed(item, outcome)
            else:
                raise outcome


def _completed(
    submit: Submit,
    items: Iterable[Item],
    workers: int,
    retries: int,
    describe: Callable[[Item], str],
) -> Iterator[tuple[Item, Any]]:
    """Pairs of an item and its result or exception; an item whose worker died is submitted
    again.
    """
    fresh = iter(items)
    again: deque[tuple[Item, int]] = deque()  # with the number of tries so far
    # the last try of an item: nothing else runs meanwhile
    alone: deque[tuple[Item, int]] = deque()
    running: dict[Future[Any], tuple[Item, int]] = {}

    def next_item() -> tuple[Item, int] | None:
        if again:
            return again.popleft()
        for item in fresh:
            return item, 0
        return None

    while True:
        while len(running) < workers and (waiting := next_item()) is not None:
            running[submit(waiting[0])] = waiting
        if not running:
            if not alone:
                return
            waiting = alone.popleft()
            running[submit(waiting[0])] = waiting
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            item, tries = running.pop(future)
            error = future.exception()
            if error is None:
                yield item, future.result()
            elif not isinstance(error, LostWorkerError):
                if not isinstance(error, Exception):
                    raise error
                yield item, error
            elif tries < retries:
                tqdm.write(f"{error}; trying {describe(item)} again", file=sys.stderr)
                (again if tries + 1 < retries else alone).append((item, tries + 1))
            else:
                yield (
                    item,
                    LostWorkerError(
                        f"{describe(item)}: {error}, {tries + 1} times. It may need more memory"
                        " than there is: use fewer workers (fanout.workers), or look for"
                        " the kernel's out-of-memory message (dmesg)."
                    ),
                )


def _progress(title: str, total: int | None) -> tqdm:
    """A live bar on a terminal; elsewhere (a worker's log) a line every half a minute."""
    return tqdm(
        desc=title,
        total=total,
        unit="item",
        mininterval=0.2 if sys.stderr.isatty() else 30.0,
        smoothing=0.05,
    )


def _name(function: Callable[..., Any]) -> str:
    return getattr(getattr(function, "func", function), "__name__", type(function).__name__)
