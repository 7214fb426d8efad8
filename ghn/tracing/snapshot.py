"""What a network is before a forward pass, to be put back after it.

A forward pass may leave anything behind: tables and features in attributes, lists and dictionaries,
hooks that it installs, values of parameters that it clips, random numbers that it draws. A snapshot
follows everything that can be reached from a network's modules: their attributes, containers and
plain objects in these, closures of hooks, attributes and caches of the modules' classes and
containers that their methods name as globals.
"""

from __future__ import annotations

import functools
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from operator import is_
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_ATOMS = frozenset(
    (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, type)
)
_FOREIGN = sys.stdlib_module_names | {"torch", "numpy"}
"""Packages whose objects, functions and classes are not followed; their containers are."""

_MISSING = object()
_CACHE: type = type(functools.lru_cache(len))


class Snapshot:
    """Everything that can be reached from `root`, by reference; values of tensors that are not
    parameters or buffers too.

    Attributes:
        tensors: found on the way, by identity.
    """

    def __init__(self, root: nn.Module, registered: Iterable[Tensor]) -> None:
        self.tensors: dict[int, Tensor] = {id(tensor): tensor for tensor in registered}
        self._registered = list(self.tensors.values())
        self._seen: dict[int, Any] = {}
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._empty: list[dict[Any, Any]] = []
        self._modules: list[tuple[nn.Module, type]] = []
        self._seen_classes: set[type] = set()
        self._undo: list[Callable[[], None]] = []
        self._values: list[Callable[[], None]] = []
        self._walk(root)
        for tensor in self._registered:
            if vars(tensor):
                self._walk(vars(tensor))
        self._undo += [_random_state(), *map(_device_random_state, _devices(self._registered))]

    def keep_values(self) -> None:
        """Copies the values of parameters and buffers, for a pass that computes with them."""
        self._values = [undo for t in self._registered if (undo := _value(t)) is not None]

    def restore(self) -> None:
        """Puts everything back; what has not changed is not touched."""
        for module, kind in self._modules:
            if type(module) is not kind:  # lazy modules become others
                module.__class__ = kind
        for empty in self._empty:
            if empty:
                empty.clear()
        for current, before in self._dicts:
            _restore_dict(current, before)
        for undo in (*self._undo, *self._values):
            undo()

    def _walk(self, root: Any) -> None:
        stack = [root]
        while stack:
            value = stack.pop()
            kind = type(value)
            if kind in _ATOMS or id(value) in self._seen:
                continue
            if kind in (dict, OrderedDict) and not value:  # most are: hooks of modules
                self._empty.append(value)
                continue
            self._seen[id(value)] = value
            if isinstance(value, Tensor):
                self._note_tensor(value)
            elif isinstance(value, dict):
                self._dicts.append((value, value.copy() if kind is dict else dict(value)))
                stack.extend(value.values())
            elif isinstance(value, nn.Module):
                self._modules.append((value, kind))
                if kind not in self._seen_classes:
                    self._seen_classes.add(kind)
                    self._note_class(kind, stack)
                stack.append(vars(value))
            else:
                self._note(value, stack)

    def _note_tensor(self, tensor: Tensor) -> None:
        if id(tensor) not in self.tensors:
            self.tensors[id(tensor)] = tensor
            if (undo := _value(tensor)) is not None:
                self._undo.append(undo)

    def _note(self, value: Any, stack: list[Any]) -> None:
        """Notes a container, a generator of random numbers or an object, and what it holds."""
        if isinstance(value, (list, deque)):
            self._undo.append(functools.partial(_restore_list, value, list(value)))
            stack.extend(value)
        elif isinstance(value, (set, bytearray)):
            self._undo.append(functools.partial(_restore_whole, value, value.copy()))
        elif isinstance(value, (tuple, frozenset)):
            stack.extend(value)
        elif isinstance(value, np.ndarray):
            if value.flags.writeable:
                self._undo.append(functools.partial(_restore_array, value, value.copy()))
        elif (undo := _generator(value)) is not None:
            self._undo.append(undo)
        elif isinstance(value, FunctionType):
            self._note_function(value, stack)
        elif isinstance(value, MethodType):
            stack += (value.__self__, value.__func__)
        elif isinstance(value, functools.partial):
            stack += (value.func, value.args, value.keywords)
        elif isinstance(value, _CACHE):
            self._undo.append(functools.partial(_forget, value, value.cache_info()))  # type: ignore[attr-defined]
            stack.append(value.__wrapped__)  # type: ignore[attr-defined]
        elif not _is_foreign(type(value)) or isinstance(value, SimpleNamespace):
            stack.append(getattr(value, "__dict__", None))
            for name in _slots(type(value)):
                item = getattr(value, name, _MISSING)
                self._undo.append(functools.partial(_restore_slot, value, name, item))
                stack.append(None if item is _MISSING else item)

    def _note_class(self, kind: type, stack: list[Any]) -> None:
        for base in kind.__mro__:
            if id(base) in self._seen or _is_foreign(base):
                continue
            self._seen[id(base)] = base
            for name, item in list(vars(base).items()):
                if not name.startswith("__") and not isinstance(item, type):
                    stack.append(item)
                    self._undo.append(_class_item(base, name, item))

    def _note_function(self, function: FunctionType, stack: list[Any]) -> None:
        if _is_foreign(function):
            return
        stack += (function.__dict__, function.__defaults__, function.__kwdefaults__)
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # not yet filled
                continue
            self._undo.append(functools.partial(setattr, cell, "cell_contents", content))
            stack.append(content)
        for name in function.__code__.co_names:
            named = function.__globals__.get(name)
            if isinstance(named, (list, dict, set, deque, Tensor, torch.Generator, _CACHE)):
                stack.append(named)


def _is_foreign(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] in _FOREIGN


def _slots(kind: type) -> tuple[str, ...]:
    names: list[str] = []
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _restore_dict(current: dict[Any, Any], before: dict[Any, Any]) -> None:
    same = len(current) == len(before) and all(map(is_, current, before))
    if not (same and all(map(is_, current.values(), before.values()))):
        current.clear()
        current.update(before)


def _restore_list(current: list[Any] | deque[Any], before: list[Any]) -> None:
    if len(current) != len(before) or any(a is not b for a, b in zip(current, before, strict=True)):
        current.clear()
        current.extend(before)


def _restore_whole(current: Any, before: Any) -> None:
    if current != before:
        current.clear()
        (current.update if isinstance(current, set) else current.extend)(before)


def _restore_array(current: Any, before: Any) -> None:
    if current.tobytes() != before.tobytes():
        current[...] = before


def _restore_slot(target: Any, name: str, before: Any) -> None:
    now = getattr(target, name, _MISSING)
    if now is before:
        return
    if before is _MISSING:
        object.__delattr__(target, name)
    else:
        object.__setattr__(target, name, before)


def _class_item(kind: type, name: str, before: Any) -> Callable[[], None]:
    def undo() -> None:
        if vars(kind).get(name, _MISSING) is not before:
            setattr(kind, name, before)

    return undo


def _forget(cache: Any, before: Any) -> None:
    if cache.cache_info().misses != before.misses:
        cache.cache_clear()


def _value(tensor: Tensor) -> Callable[[], None] | None:
    """What puts a tensor's values, storage, gradient and flag back; None if it has no values.

    The values go through `Tensor.data`, which leaves the version alone that autograd looks at.
    """
    if tensor.is_meta or tensor.layout is not torch.strided or type(tensor.data) is not Tensor:
        return None
    values = tensor.data
    before, leaf = values.clone(), tensor.is_leaf
    grad, wanted = (tensor.grad if leaf else None), tensor.requires_grad

    def undo() -> None:
        moved = tensor.data_ptr() != values.data_ptr() or tensor.shape != values.shape
        if moved or tensor.stride() != values.stride():
            tensor.data = values
        if not torch.equal(values, before):
            values.copy_(before)
        if leaf and tensor.requires_grad is not wanted:
            tensor.requires_grad_(wanted)
        if leaf and tensor.grad is not grad:
            tensor.grad = grad

    return undo


def _generator(value: Any) -> Callable[[], None] | None:
    """What puts the state of a generator of random numbers back; None if `value` is none."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: (value.set_state(state), None)[1]
    if isinstance(value, random.Random):
        return functools.partial(value.setstate, value.getstate())
    if isinstance(value, np.random.RandomState):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        return functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    return None


def _random_state() -> Callable[[], None]:
    """What puts the global random states of PyTorch (CPU), Python and NumPy back."""
    legacy = np.random.mtrand._rand  # what `np.random.rand` and the like draw from
    states = torch.get_rng_state(), random.getstate(), legacy.get_state()

    def undo() -> None:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        legacy.set_state(states[2])

    return undo


def _device_random_state(device: torch.device) -> Callable[[], None]:
    backend = torch.get_device_module(device)
    return functools.partial(backend.set_rng_state, backend.get_rng_state(device), device)


def _devices(tensors: Iterable[Tensor]) -> set[torch.device]:
    return {tensor.device for tensor in tensors} - {torch.device("cpu"), torch.device("meta")}
