"""Iterators that a network holds: a forward pass draws from stand-ins.

An iterator cannot be rewound. One that can be copied is lent as a copy; what a pass draws from
another one (a generator, `zip`, `itertools.cycle`) comes before the rest of it afterwards.
"""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any

_COPIED = {type(iter(kind())) for kind in (list, tuple, str, bytes, bytearray)}
_COPIED |= {type(iter(range(0))), type(iter(range(2**63, 2**64))), type(reversed([]))}
_COPIED |= {itertools.count, itertools.repeat}
"""Types of iterators whose copies share nothing that moves."""


def is_iterator(value: Any) -> bool:
    """Whether `value` is an iterator of Python's own kinds; others are objects with attributes."""
    own = type(value).__module__ in ("builtins", "itertools")
    return own and isinstance(value, Iterator) and not isinstance(value, io.IOBase)


class Lent:
    """An iterator, and where it is held.

    Attributes:
        iterator: gives what the one that was found would give.
        places: each puts what it is called with where the iterator was found.
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self.iterator = self._found = iterator
        self.places: list[Callable[[Any], object]] = []
        self._drawn: list[Any] = []

    def lend(self) -> None:
        """Puts a stand-in in its places."""
        copied = type(self.iterator) in _COPIED
        self._put(copy.copy(self.iterator) if copied else self._drawing())

    def settle(self) -> None:
        """Puts it back, after everything else."""
        if self._drawn:
            self.iterator, self._drawn = itertools.chain(self._drawn, self.iterator), []
        self._put(self.iterator)

    def _put(self, iterator: Iterator[Any]) -> None:
        for place in self.places:
            place(iterator)

    def _drawing(self) -> Iterator[Any]:
        for item in self.iterator:
            self._drawn.append(item)
            yield item
