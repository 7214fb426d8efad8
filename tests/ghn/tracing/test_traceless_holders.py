"""Tracing leaves no trace in iterators, files, globals and other holders of state."""

from __future__ import annotations

import argparse
import array
import builtins
import collections
import contextlib
import ctypes
import decimal
import functools
import gc
import io
import itertools
import logging
import math
import os
import queue
import random
import signal
import socket
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, TextIO

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ghn import trace
from ghn.errors import TraceError

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


def count_inside() -> None:
    def inside() -> None:
        global COUNT
        COUNT += 1

    inside()


def make_global() -> None:
    globals()["NEW"] = 1


class Named:
    """A class of which nothing but the name is held."""

    n = 0
    items: list[int] = []  # noqa: RUF012 (shared on purpose)

    class Inner:
        """One in it."""

        n = 0

    @classmethod
    def add(cls) -> None:
        cls.n += 1
        cls.items.append(1)


class Numbers(list[int]):
    """A list with an attribute."""

    n = 0


class ReadOnly(dict[str, int]):
    """A dictionary that refuses what dictionaries do."""

    def _refuse(self, *_: Any) -> None:
        raise TypeError("read only")

    clear = update = __setitem__ = _refuse  # type: ignore[assignment]


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("it",)

    def __init__(self, it: Iterator[int]) -> None:
        self.it = it


def returns(it: Iterator[int]) -> Callable[[], int]:
    def function(held: Iterator[int] = it) -> int:
        return next(held)

    return function


STATE: Any = ModuleType("state_of_a_test")
STATE.n, STATE.items = 0, []
LISTS: ContextVar[list[int]] = ContextVar("LISTS", default=[])  # noqa: B039 (shared on purpose)


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
    "simple queue": (queue.SimpleQueue(), lambda q: q.put(1), lambda q: q.qsize()),
    "semaphore": (threading.Semaphore(2), lambda s: s.acquire(), lambda s: s._value),
    "event": (threading.Event(), lambda e: e.set(), lambda e: e.is_set()),
    "namespace": (argparse.Namespace(n=0), lambda a: setattr(a, "n", 1), lambda a: a.n),
    "exits": (contextlib.ExitStack(), lambda e: e.callback(len), lambda e: len(e._exit_callbacks)),
    "memory": (memoryview(bytearray(2)), lambda m: m.__setitem__(0, 1), bytes),
    "C": (ctypes.c_int(0), lambda c: setattr(c, "value", 1), lambda c: c.value),
    "storage": (torch.ones(2).untyped_storage(), lambda s: s.fill_(1), lambda s: s.tolist()),
    "optimizer": (torch.optim.SGD([torch.zeros(1)], 0.1),
                  lambda o: o.param_groups[0].update(lr=1), lambda o: o.param_groups[0]["lr"]),
    "attribute of a list": (Numbers(), lambda n: setattr(n, "n", 1), lambda n: n.n),
    "own dictionary": (ReadOnly(), lambda d: dict.__setitem__(d, "a", 1), dict),
    "in a set": ({_weak}, lambda s: setattr(_weak, "m", 1), lambda _: hasattr(_weak, "m")),
    "key": ({_weak: 0}, lambda d: setattr(_weak, "m", 1), lambda _: hasattr(_weak, "m")),
    "weak": (weakref.ref(_weak), lambda r: setattr(r(), "m", 1), lambda r: hasattr(r(), "m")),
    "class by name": (None, lambda _: Named.add(), lambda _: (Named.n, list(Named.items))),
    "inner class": (None, lambda _: setattr(Named.Inner, "n", 1), lambda _: Named.Inner.n),
    "new in a class": (Shared(), lambda o: setattr(Shared, "m", 1), lambda _: hasattr(Shared, "m")),
    "its class": (Shared(), lambda o: setattr(o, "__class__", Named), type),
    "its attributes": (Shared(), lambda o: setattr(o, "__dict__", {"m": 1}),
                       lambda o: vars(o) == {}),
    "module": (None, lambda _: setattr(STATE, "n", 1), lambda _: (STATE.n, hasattr(STATE, "m"))),
    "new in a module": (None, lambda _: setattr(STATE, "m", 1), lambda _: hasattr(STATE, "m")),
    "list of a module": (None, lambda _: STATE.items.append(1), lambda _: len(STATE.items)),
    "new global": (None, lambda _: make_global(), lambda _: "NEW" in globals()),
    "global of an inner function": (None, lambda _: count_inside(), lambda _: COUNT),
    "context's list": (None, lambda _: LISTS.get().append(1), lambda _: len(LISTS.get())),
    "filters of warnings": (None, lambda _: warnings.simplefilter("ignore"),
                            lambda _: list(warnings.filters)),
    "logger": (None, lambda _: logging.getLogger("a.b").setLevel(7),
               lambda _: logging.getLogger("a.b").level),
    "loggers": (None, lambda _: logging.disable(), lambda _: logging.root.manager.disable),
    "handlers": (None, lambda _: logging.root.addHandler(logging.NullHandler()),
                 lambda _: list(logging.root.handlers)),
    "directory": (None, lambda _: os.chdir("/"), lambda _: Path.cwd()),
    "search path": (None, lambda _: sys.path.append("x"), lambda _: list(sys.path)),
    "output": (None, lambda _: setattr(sys, "stdout", io.StringIO()), lambda _: sys.stdout),
    "recursion": (None, lambda _: sys.setrecursionlimit(4321), lambda _: sys.getrecursionlimit()),
    "collector": (None, lambda _: gc.disable(), lambda _: gc.isenabled()),
    "decimals": (None, lambda _: setattr(decimal.getcontext(), "prec", 5),
                 lambda _: decimal.getcontext().prec),
    "type": (None, lambda _: torch.set_default_dtype(torch.float64),
             lambda _: torch.get_default_dtype()),
    "device": (None, lambda _: torch.set_default_device("meta"),
               lambda _: torch.get_default_device()),
    "threads": (None, lambda _: torch.set_num_threads(torch.get_num_threads() + 1),
                lambda _: torch.get_num_threads()),
    "determinism": (None, lambda _: torch.use_deterministic_algorithms(True, warn_only=True),
                    lambda _: torch.get_deterministic_debug_mode()),
    "cuDNN": (None, lambda _: setattr(torch.backends.cudnn, "benchmark", True),
              lambda _: torch.backends.cudnn.benchmark),
    "precision": (None, lambda _: torch.set_float32_matmul_precision("medium"),
                  lambda _: torch.get_float32_matmul_precision()),
    "autocast": (None, lambda _: torch.set_autocast_dtype("cpu", torch.float16),
                 lambda _: torch.get_autocast_dtype("cpu")),
    "anomalies": (None, lambda _: torch.autograd.set_detect_anomaly(True),
                  lambda _: torch.is_anomaly_enabled()),
    "hooks of all modules": (
        None, lambda _: nn.modules.module.register_module_forward_hook(lambda *_: None),
        lambda _: len(nn.modules.module._global_forward_hooks),
    ),
    "a library's function": (None, lambda _: setattr(torch.nn.functional, "relu", len),
                             lambda _: torch.nn.functional.relu),
    "a function by a chain": (None, lambda _: by_chain(), lambda _: nn.functional.gelu),
    "a function by an import": (None, lambda _: by_import(), lambda _: nn.functional.silu),
    "functions by a loop": (None, lambda _: by_loop(), lambda _: (nn.functional.elu, math.log)),
    "new in a library": (None, lambda _: by_dictionary(), lambda _: hasattr(nn.init, "mine")),
    "method of a library's class": (None, lambda _: setattr(Tensor, "relu", len),
                                    lambda _: Tensor.relu),
    "new in a library's class": (None, lambda _: by_class(), lambda _: hasattr(nn.Tanh, "mine")),
    "method of a layer's class": (nn.Linear(1, 1), lambda o: setattr(type(o), "extra_repr", len),
                                  lambda _: nn.Linear.extra_repr),
    "built-in name": (None, lambda _: setattr(builtins, "mine", 1),
                      lambda _: hasattr(builtins, "mine")),
    "built-in function": (None, lambda _: by_builtins(), lambda _: builtins.abs),
    "module that is none": (None, lambda _: sys.modules.update(no_such=ModuleType("no_such")),
                            lambda _: "no_such" in sys.modules),
    "module that goes": (None, lambda _: sys.modules.pop("argparse"),
                         lambda _: sys.modules["argparse"]),
    "module that changes": (None, lambda _: sys.modules.update(argparse=math),
                            lambda _: sys.modules["argparse"]),
    "permissions of new files": (None, lambda _: os.umask(0o123), lambda _: umask()),
    "signal": (None, lambda _: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
               lambda _: signal.getsignal(signal.SIGUSR1)),
    "timeout of sockets": (None, lambda _: socket.setdefaulttimeout(7),
                           lambda _: socket.getdefaulttimeout()),
    "printing": (None, lambda _: torch.set_printoptions(precision=2),
                 lambda _: torch._tensor_str.PRINT_OPTS.precision),
}  # fmt: skip


def by_chain() -> None:
    torch.nn.functional.gelu = len  # type: ignore[assignment]


def by_import() -> None:
    from torch.nn import functional

    functional.silu = len  # type: ignore[assignment]


def by_loop() -> None:
    for library, names in ((torch.nn.functional, ("elu", "selu")), (math, ("log",))):
        for name in names:
            setattr(library, name, len)


def by_dictionary() -> None:
    vars(torch.nn.init)["mine"] = len


def by_class() -> None:
    torch.nn.modules.activation.Tanh.mine = 1  # type: ignore[attr-defined]


def by_builtins() -> None:
    __builtins__["abs"] = len  # type: ignore[index]


def umask() -> str:
    return Path("/proc/self/status").read_text().partition("Umask:")[2].split()[0]


def repr_of(iterator: Iterator[Any]) -> Any:
    return iterator.__reduce__()


@pytest.mark.parametrize("needs_values", [False, True])
@pytest.mark.parametrize("name", HOLDERS)
def test_holders_are_as_they_were(name: str, needs_values: bool) -> None:
    held, use, look = HOLDERS[name]
    before = look(held)
    trace(Holder(held, use, needs_values), torch.randn(2, 4))
    assert look(held) == before


class Pair(NamedTuple):
    """Holds an iterator where nothing can be replaced."""

    it: Iterator[int]


FIXED: dict[str, tuple[Callable[[Iterator[int]], Any], Callable[[Any], Any]]] = {
    "tuple": (lambda it: (it,), lambda h: h[0]),
    "tuples": (lambda it: [((0, it), 1)], lambda h: h[0][0][1]),
    "named tuple": (Pair, lambda h: h.it),
    "slot": (Slotted, lambda h: h.it),
    "deque": (lambda it: collections.deque([it]), lambda h: h[0]),
    "partial": (lambda it: functools.partial(next, it), lambda h: h.args[0]),
    "default": (lambda it: returns(it), lambda h: h.__defaults__[0]),
}


@pytest.mark.parametrize("needs_values", [False, True])
@pytest.mark.parametrize("kind", ["range", "zip", "generator"])
@pytest.mark.parametrize("name", FIXED)
def test_iterators_in_what_cannot_be_changed(name: str, kind: str, needs_values: bool) -> None:
    make, (hold, find) = ITERATORS[kind], FIXED[name]
    expected = list(itertools.islice(make(), 5))
    use = (lambda h: h()) if name in ("partial", "default") else (lambda h: next(find(h)))
    holder = Holder(hold(make()), use, needs_values)
    trace(holder, torch.randn(2, 4))
    trace(holder, torch.randn(2, 4))
    assert type(holder.held) is type(hold(make()))
    assert list(itertools.islice(find(holder.held), 5)) == expected


@pytest.mark.parametrize("needs_values", [False, True])
def test_methods_of_iterators(needs_values: bool) -> None:
    ids: dict[str, int] = collections.defaultdict(itertools.count().__next__)
    trace(Holder(ids, lambda ids: ids["a"], needs_values), torch.randn(2, 4))
    assert (dict(ids), ids["b"]) == ({}, 0)


def test_a_value_sent_to_a_generator_is_refused() -> None:
    def echo() -> Iterator[Any]:
        got = None
        while True:
            got = yield got

    held = echo()
    next(held)
    holder = Holder(held, lambda g: g.send(1), needs_values=False)
    with pytest.raises(TraceError, match="cannot be undone"):
        trace(holder, torch.randn(2, 4))
    assert held.send(5) == 5  # type: ignore[attr-defined]


PARAMETERS: dict[str, tuple[Callable[[Tensor], object], Callable[[Tensor], Any]]] = {
    "attribute": (lambda t: setattr(t, "n", 1), lambda t: hasattr(t, "n")),
    "hook": (lambda t: t.register_hook(lambda g: None), lambda t: len(t._backward_hooks or ())),
    "hook of gradients": (
        lambda t: t.register_post_accumulate_grad_hook(lambda p: None),
        lambda t: len(t._post_accumulate_grad_hooks or ()),
    ),
}


@pytest.mark.parametrize("needs_values", [False, True])
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_keep_what_python_has_of_them(name: str, needs_values: bool) -> None:
    change, look = PARAMETERS[name]
    holder = Holder(None, lambda _: None, needs_values)
    for tensor in (holder.first.weight, torch.zeros(2, requires_grad=True)):
        holder.use = functools.partial(lambda t, _: change(t), tensor)
        before = look(tensor)
        trace(holder, torch.randn(2, 4))
        assert look(tensor) == before
        change(tensor)
        assert look(tensor) != before  # or the test above could not fail


def test_what_was_written_into_a_file_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w+") as file:
        file.write("before")
        trace(Holder(file, lambda f: f.write("x" * 9), needs_values=False), torch.randn(2, 4))
        file.write(" after")
    assert path.read_text() == "before after"


@pytest.mark.parametrize(("mode", "length"), [("w", 9), ("w", 10**6), ("a", 9)])
def test_a_written_file_has_its_length(tmp_path: Path, mode: str, length: int) -> None:
    """Flushed or not, where nobody else can have written."""
    path = tmp_path / "log"
    with path.open(mode) as file:
        file.write("before")
        trace(Holder(file, lambda f: f.write("x" * length), needs_values=False), torch.randn(2, 4))
        file.write(" after")
    assert path.read_text() == "before after"


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("mode", ["a", "a+", "r+", "w"])
def test_what_others_wrote_into_a_file_stays(tmp_path: Path, mode: str, writes: bool) -> None:
    path = tmp_path / "log"
    path.write_text("")

    def use(file: TextIO) -> None:
        with path.open("a") as other:
            other.write("a line of another process\n")
        if mode == "r+":
            file.read()
        if writes and mode != "w":  # which overwrites
            file.write("a line of this\n")
            file.flush()

    with path.open(mode) as file:
        trace(Holder(file, use, needs_values=False), torch.randn(2, 4))
    assert "a line of another process\n" in path.read_text()


def test_a_file_is_where_it_was() -> None:
    with open(__file__) as file:
        trace(Holder(file, lambda f: f.readline(), needs_values=False), torch.randn(2, 4))
        assert file.tell() == 0
