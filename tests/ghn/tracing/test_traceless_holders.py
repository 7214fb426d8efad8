"""Tracing leaves no trace in iterators, files, globals and other holders of state."""

from __future__ import annotations

import array
import collections
import io
import itertools
import os
import queue
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ghn import trace

COUNT = 0
GLOBAL: list[Iterator[int]] = [iter(range(9))]
CONTEXT: ContextVar[int] = ContextVar("CONTEXT", default=0)


class Shared:
    """A class whose attributes its objects change."""

    n = 0
    it = iter(range(9))


def count() -> None:
    global COUNT
    COUNT += 1


def numbers() -> Iterator[int]:
    yield from range(9)


class Holder(nn.Module):
    """Uses what it holds in every pass."""

    def __init__(self, held: Any, use: Callable[[Any], object], needs_values: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.held, self.use, self.needs_values = held, use, needs_values

    def forward(self, x: Tensor) -> Tensor:
        self.use(self.held)
        x = self.first(x)
        if self.needs_values and x.abs().max() > 1e9:
            x = x * 2
        return self.last(x)


ITERATORS: dict[str, Callable[[], Iterator[Any]]] = {
    "range": lambda: iter(range(9)),
    "list": lambda: iter([1, 2, 3, 4]),
    "last of a list": lambda: iter([1]),
    "reversed": lambda: reversed([1, 2, 3, 4]),
    "dict": lambda: iter({1: 1, 2: 2, 3: 3}),
    "count": itertools.count,
    "cycle": lambda: itertools.cycle([1, 2, 3]),
    "zip": lambda: zip(range(9), range(9), strict=True),
    "enumerate": lambda: enumerate("abcdef"),
    "map": lambda: map(abs, range(9)),
    "generator": numbers,
}


@pytest.mark.parametrize("needs_values", [False, True])
@pytest.mark.parametrize("name", ITERATORS)
def test_iterators_are_not_advanced(name: str, needs_values: bool) -> None:
    make = ITERATORS[name]
    expected = list(itertools.islice(make(), 5))
    seen: list[Any] = []
    holder = Holder(None, lambda _: None, needs_values)
    holder.held = make()
    holder.use = lambda held: seen.append(next(held))
    trace(holder, torch.randn(2, 4))
    trace(holder, torch.randn(2, 4))
    assert list(itertools.islice(holder.held, 5)) == expected
    assert seen == []
    nested = Holder([{"it": make()}], lambda held: next(held[0]["it"]), needs_values)
    trace(nested, torch.randn(2, 4))
    assert list(itertools.islice(nested.held[0]["it"], 5)) == expected


def test_an_iterator_that_was_not_used_is_the_same() -> None:
    held = numbers()
    holder = Holder(held, lambda _: None, needs_values=False)
    trace(holder, torch.randn(2, 4))
    assert holder.held is held
    simple = iter(range(9))
    holder = Holder(simple, next, needs_values=False)
    trace(holder, torch.randn(2, 4))
    assert holder.held is simple
    assert next(simple) == 0


class Made(collections.OrderedDict[str, Any]):
    """As the activations of transformers: a class goes in, an object of it comes out."""

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key)()


_weak = Shared()
HOLDERS: dict[str, tuple[Any, Callable[[Any], object], Callable[[Any], Any]]] = {
    "text": (io.StringIO("abc"), lambda f: f.write("x"), lambda f: (f.getvalue(), f.tell())),
    "bytes": (io.BytesIO(b"abc"), lambda f: f.read(1), lambda f: f.tell()),
    "array": (array.array("i", [1]), lambda a: a.append(2), list),
    "bytearray": (bytearray(b"a"), lambda a: a.append(2), bytes),
    "queue": (queue.Queue(), lambda q: q.put(1), lambda q: q.qsize()),
    "ChainMap": (collections.ChainMap({}), lambda c: c.update(a=1), dict),
    "UserList": (collections.UserList(), lambda c: c.append(1), list),
    "a dictionary of makers": (Made(a=list), lambda d: d["a"], lambda d: [*d.values()]),
    "weak keys": (weakref.WeakKeyDictionary(), lambda c: c.update({_weak: 1}), dict),
    "local": (threading.local(), lambda o: setattr(o, "a", 1), lambda o: dict(vars(o))),
    "bits": (np.random.PCG64(1), lambda r: r.random_raw(), lambda r: r.state["state"]["state"]),
    "Sobol": (torch.quasirandom.SobolEngine(2), lambda s: s.draw(1), lambda s: s.num_generated),
    "objects": (np.array([[1], 2], dtype=object), lambda a: a[0].append(1), lambda a: len(a[0])),
    "proxy": (MappingProxyType({"n": []}), lambda m: m["n"].append(1), lambda m: len(m["n"])),
    "sparse": (torch.eye(3).to_sparse(), lambda t: t.mul_(2), lambda t: t.to_dense().sum()),
    "a system's random numbers": (random.SystemRandom(), lambda r: r.random(), lambda _: 0),
    "class": (Shared(), lambda o: setattr(Shared, "n", Shared.n + 1), lambda _: Shared.n),
    "iterator of a class": (Shared(), lambda o: next(Shared.it), lambda _: repr_of(Shared.it)),
    "iterator in a global": (None, lambda _: next(GLOBAL[0]), lambda _: repr_of(GLOBAL[0])),
    "global number": (None, lambda _: count(), lambda _: COUNT),
    "context": (None, lambda _: CONTEXT.set(1), lambda _: CONTEXT.get()),
    "environment": (None, lambda _: os.environ.update(NO_SUCH="1"), lambda _: dict(os.environ)),
    "type": (None, lambda _: torch.set_default_dtype(torch.float64),
             lambda _: torch.get_default_dtype()),
}  # fmt: skip


def repr_of(iterator: Iterator[Any]) -> Any:
    return iterator.__reduce__()


@pytest.mark.parametrize("needs_values", [False, True])
@pytest.mark.parametrize("name", HOLDERS)
def test_holders_are_as_they_were(name: str, needs_values: bool) -> None:
    held, use, look = HOLDERS[name]
    before = look(held)
    trace(Holder(held, use, needs_values), torch.randn(2, 4))
    assert look(held) == before


def test_a_file_is_where_it_was() -> None:
    with open(__file__) as file:
        trace(Holder(file, lambda f: f.readline(), needs_values=False), torch.randn(2, 4))
        assert file.tell() == 0
