"""Iterators that a network holds: a forward pass draws from stand-ins.

An iterator cannot be rewound. One that can be copied is lent as a copy; what a pass draws from
another one (a generator, `zip`, `itertools.cycle`) comes before the rest of it afterwards. What
cannot be changed and has iterators (a tuple, the method `__next__` of one) is lent made anew.
"""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import BuiltinMethodType, GeneratorType, MethodWrapperType
from typing import Any

from ghn.errors import TraceError

_COPIED = {type(iter(kind())) for kind in (list, tuple, str, bytes, bytearray)}
_COPIED |= {type(iter(range(0))), type(iter(range(2**63, 2**64))), type(reversed([]))}
_COPIED |= {itertools.count, itertools.repeat}
"""Types of iterators whose copies share nothing that moves."""


def is_iterator(value: Any) -> bool:
    """Whether `value` is an iterator of Python's own kinds; others are objects with attributes."""
    own = type(value).__module__ in ("builtins", "itertools")
    return own and isinstance(value, Iterator) and not isinstance(value, io.IOBase)


class Lent:
    """Something that moves, and where it is held.

    Attributes:
        current: what is in its places now.
        places: each puts what it is called with where the thing was found.
    """

    current: Any
    places: list[Callable[[Any], object]]

    def lend(self) -> None:
        """Puts a stand-in in its places."""
        raise NotImplementedError

    def settle(self) -> None:
        """Puts it back, after everything else."""
        raise NotImplementedError

    def _put(self, thing: Any) -> None:
        self.current = thing
        for place in self.places:
            place(thing)


class LentIterator(Lent):
    """An iterator; `found` gives what the one that was found would give."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self.current = self._found = iterator
        self.places = []
        self._drawn: list[Any] = []

    def lend(self) -> None:
        """Puts a copy or one that notes what is drawn in its places."""
        copied = type(self._found) in _COPIED
        self._put(copy.copy(self._found) if copied else _Drawing(self._found, self._drawn))

    def settle(self) -> None:
        """Puts it back with what was drawn."""
        if self._drawn:
            drawn, rest = self._drawn, self._found
            own = isinstance(rest, GeneratorType)
            self._found = _continued(drawn, rest) if own else itertools.chain(drawn, rest)
            self._drawn = []
        self._put(self._found)


class LentHolder(Lent):
    """A tuple that has iterators, or the method of one."""

    def __init__(self, found: Any, lent: Mapping[int, Lent]) -> None:
        self.current = self._found = found
        self.places = []
        self._lent = lent

    def lend(self) -> None:
        """Puts one with stand-ins in its places."""
        self._put(self._anew())

    def settle(self) -> None:
        """Puts it back; with other iterators only where these had to become others."""
        self._put(self._anew())

    def _anew(self) -> Any:
        if not isinstance(self._found, (tuple, frozenset)):
            now = self._now(self._found.__self__)
            return (
                self._found if now is self._found.__self__ else getattr(now, self._found.__name__)
            )
        items = [self._now(item) for item in self._found]
        if all(a is b for a, b in zip(items, self._found, strict=True)):
            return self._found
        kind: Any = type(self._found)
        own = tuple if isinstance(self._found, tuple) else frozenset
        return own.__new__(kind, items)

    def _now(self, item: Any) -> Any:
        lent = self._lent.get(id(item))
        if isinstance(lent, LentHolder):
            return lent._anew()
        return item if lent is None else lent.current


def lend_holders(found: Iterable[Any], lent: dict[int, Lent]) -> None:
    """Adds to what is `lent` those of the tuples and methods `found` that have some of it."""
    before = -1
    while before != len(lent):  # tuples of tuples
        before = len(lent)
        for holder in found:
            inside = holder if isinstance(holder, (tuple, frozenset)) else (holder.__self__,)
            if id(holder) not in lent and any(id(item) in lent for item in inside):
                lent[id(holder)] = LentHolder(holder, lent)


def find_places(
    places: Iterable[tuple[Any, Callable[[Any], object]]],
    containers: Iterable[tuple[Callable[[Any, Any], object], Iterable[tuple[Any, Any]]]],
    lent: Mapping[int, Lent],
) -> None:
    """Notes where things that are `lent` are held.

    Args:
        places: what is in one place, and what puts something else there.
        containers: what sets an item, and the items by key.
        lent: by identity.
    """
    if not lent:
        return
    for item, put in places:
        if (found := lent.get(id(item))) is not None:
            found.places.append(put)
    for set_item, items in containers:
        for key, item in items:
            if (found := lent.get(id(item))) is not None:
                found.places.append(partial(set_item, key))


def is_method_of_iterator(value: Any) -> bool:
    """Whether `value` is such as `itertools.count().__next__`."""
    method = isinstance(value, (BuiltinMethodType, MethodWrapperType))
    return method and is_iterator(value.__self__)


class _Drawing:
    """Draws from an iterator and notes what it gave."""

    def __init__(self, iterator: Iterator[Any], drawn: list[Any]) -> None:
        self._iterator, self._drawn = iterator, drawn

    def __iter__(self) -> _Drawing:
        return self

    def __next__(self) -> Any:
        self._drawn.append(item := next(self._iterator))
        return item

    def send(self, value: Any) -> Any:
        """As `next`; a value is refused."""
        if value is None:
            return next(self)
        raise TraceError(
            "the network sends a value to a generator that it holds, which cannot be undone; hold"
            " what makes the generator instead"
        )

    def throw(self, *_: Any) -> Any:
        """Is refused."""
        raise TraceError("the network throws into a generator that it holds, or closes it")

    close = throw


def _continued(drawn: list[Any], rest: Any) -> Iterator[Any]:
    yield from drawn
    yield from rest
