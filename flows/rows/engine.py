"""The one loop that makes rows: known ones from a cache, the others by workers, failures as rows.

Stages and experiments say what an item's row depends on (`Work.key`), which columns stand in it
whatever happens (`Work.head`), and how the others are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tqdm import tqdm

from flows.compute.fanout import LostWorkerError, fan_out
from flows.rows.cache import Cache
from flows.rows.schema import Row
from flows.settings.fanout import FanOut
from ghn.errors import GHNError, is_out_of_memory

Item = TypeVar("Item")

_LONGEST_ERROR = 500
"""Characters of a message that a row keeps."""


class TooManyErrorsError(GHNError):
    """More items failed than `fanout.max_error_share` allows."""


@dataclass(frozen=True)
class Work(Generic[Item]):
    """Items that become rows.

    Attributes:
        title: names the work in messages and on the progress bar.
        items: in the order of their rows.
        measure: the columns of an item's row besides its head, or those of several rows. It runs
            in a worker, and depends on nothing that the key does not have.
        key: digest of all that an item's rows depend on.
        head: the columns that do not have to be measured, the identity columns among them.
    """

    title: str
    items: Sequence[Item]
    measure: Callable[[Item], Row | list[Row]]
    key: Callable[[Item], str]
    head: Callable[[Item], Row]

    def rows(
        self,
        cache: Cache,
        fanout: FanOut,
        is_whole: Callable[[list[Row]], bool] = lambda _: True,
    ) -> list[Row]:
        """The rows of all items, in their order, none missing.

        An item that fails, or whose worker died, has a row with its error, which the cache does
        not get: it is tried again next time.

        Args:
            cache: of rows that were made before.
            fanout: where to measure the others.
            is_whole: whether rows from the cache still hold (files that they name may be gone).

        Raises:
            TooManyErrorsError: more than `fanout.max_error_share` of the items failed. Those that
                did not are in the cache.
        """
        keys = [self.key(item) for item in self.items]
        found: dict[int, list[Row]] = {}
        for place, key in enumerate(keys):
            if (rows := cache.get(key)) is not None and is_whole(rows):
                found[place] = rows
        if found:
            tqdm.write(f"{self.title}: {len(found)} of {len(keys)} are there already")
        # The largest networks are at the end of lists (torchvision's): first, so that no worker
        # is left with one.
        rest = [place for place in reversed(range(len(keys))) if place not in found]
        failed: dict[int, str] = {}
        outcomes = fan_out(
            _Numbered(self.items, self.measure),
            rest,
            fanout,
            describe=lambda place: str(self.items[place]),
            failed=lambda place, error: (place, _reason(error)),
            title=self.title,
        )
        for place, outcome in outcomes if rest else ():
            head = self.head(self.items[place])
            if isinstance(outcome, str):
                failed[place] = outcome
                found[place] = [head | {"error": outcome}]
            else:
                found[place] = [head | row for row in outcome]
                cache.put(keys[place], found[place])
        self._check(failed, fanout.max_error_share)
        return [row for place in range(len(keys)) for row in found[place]]

    def _check(self, failed: dict[int, str], allowed: float) -> None:
        """Says what failed, and whether it was too much."""
        if not failed:
            return
        count = f"{len(failed)} of {len(self.items)} failed"
        lines = [f"  {self.items[place]}: {failed[place].splitlines()[0]}" for place in failed]
        shown = "\n".join([*lines[:10], *([f"  and {len(lines) - 10} more"] if lines[10:] else [])])
        if len(failed) > allowed * len(self.items):
            raise TooManyErrorsError(
                f"{self.title}: {count}, more than fanout.max_error_share = {allowed:g} allows;"
                f" nothing is written, what did not fail is kept.\n{shown}"
            )
        tqdm.write(f"{self.title}: {count}\n{shown}")


@dataclass(frozen=True)
class _Numbered(Generic[Item]):
    """Results come in order of completion, so each brings the place of its item along."""

    items: Sequence[Item]
    measure: Callable[[Item], Row | list[Row]]

    def __call__(self, place: int) -> tuple[int, list[Row] | str]:
        try:
            rows = self.measure(self.items[place])
        except Exception as error:
            if is_out_of_memory(error):  # tried again, in the end with nothing beside it
                raise LostWorkerError(_reason(error)) from None
            # Not every exception survives the way between processes.
            return place, _reason(error)
        return place, rows if isinstance(rows, list) else [rows]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip()[:_LONGEST_ERROR]
