"""Who does the work on many shards: this process, joblib's workers, or whatever the caller brings
(a Ray cluster).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Protocol, TypeVar

from joblib import Parallel, delayed
from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


class MapItems(Protocol):
    """Applies a function to items on workers and yields the results in any order, as
    `flows.compute.fanout.fan_out` does.
    """

    def __call__(
        self, function: Callable[[Item], Result], items: Iterable[Item], /
    ) -> Iterator[Result]:
        """Yields `function(item)` for every item."""


@cache
def settle() -> None:
    """Takes what is there, imported modules above all, out of garbage collection; once in a process
    that works on many small objects, whose full collections would go through all of it again and
    again.
    """
    gc.freeze()


class OnThisMachine:
    """Workers by joblib; a single one is this process.

    Args:
        workers: how many.
        title: of the progress bar.
    """

    def __init__(self, workers: int = 1, title: str = "shards") -> None:
        self.workers, self.title = workers, title

    def __call__(
        self, function: Callable[[Item], Result], items: Iterable[Item], /
    ) -> Iterator[Result]:
        """Yields `function(item)` for every item."""
        items = list(items)
        results = Parallel(n_jobs=self.workers, return_as="generator_unordered")(
            delayed(function)(i) for i in items
        )
        yield from tqdm(results, total=len(items), desc=self.title, unit="shard", mininterval=1.0)
