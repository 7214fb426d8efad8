"""What a network is before a forward pass, to be put back after it.

A forward pass may leave anything behind: tables and features in attributes, lists and dictionaries,
hooks that it installs, values of parameters that it clips, random numbers that it draws. A snapshot
follows everything that can be reached from a network's modules: their attributes, containers and
plain objects in these, closures of hooks, attributes and caches of the modules' classes and
containers that their methods name as globals.
"""

from __future__ import annotations

import functools
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from opcode import opmap
from operator import is_
from types import FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ghn.tracing.iterators import Lent, is_iterator
from ghn.tracing.undo import Undo, undo_of, undo_of_process, undo_of_tensor

_ATOMS = frozenset(
    (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, type)
)
_FOREIGN = sys.stdlib_module_names | {"torch", "numpy"}
"""Packages whose objects, functions and classes are not followed; their containers are."""

_CONTAINERS = {"collections", "weakref", "_weakrefset", "queue", "types", "_thread"}
_CONTAINERS |= {"torch.quasirandom"}
"""Modules of the libraries whose objects are followed all the same: what they hold is ours."""

_STORE_GLOBAL = opmap["STORE_GLOBAL"]
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
        self._undo: list[Undo] = []
        self._values: list[Undo] = []
        self._lists: list[list[Any] | deque[Any]] = []
        self._iterators: dict[int, Lent] = {}
        self._walk(root)
        for tensor in self._registered:
            if vars(tensor):
                self._walk(vars(tensor))
        self._find_iterators()
        self._undo += undo_of_process(self._registered)

    def lend(self) -> None:
        """Puts stand-ins in the places of iterators, which cannot be rewound, for a pass."""
        for lent in self._iterators.values():
            lent.lend()

    def keep_values(self) -> None:
        """Copies the values of parameters and buffers, for a pass that computes with them."""
        self._values = [undo for t in self._registered if (undo := undo_of_tensor(t)) is not None]

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
        for lent in self._iterators.values():
            lent.settle()

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
                self._dicts.append((value, before := _copy(value)))
                stack.extend(before.values())
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
            if (undo := undo_of_tensor(tensor)) is not None:
                self._undo.append(undo)

    def _note(self, value: Any, stack: list[Any]) -> None:
        """Notes a container, a generator of random numbers or an object, and what it holds."""
        if isinstance(value, (list, deque)):
            self._lists.append(value)
            self._undo.append(functools.partial(_restore_list, value, list(value)))
            stack.extend(value)
        elif isinstance(value, set):
            self._undo.append(functools.partial(_restore_set, value, value.copy()))
        elif isinstance(value, (tuple, frozenset)):
            stack.extend(value)
        elif isinstance(value, MappingProxyType):
            stack.extend(value.values())
        elif (undo := undo_of(value)) is not None:
            self._undo.append(undo)
            if isinstance(value, np.ndarray) and value.dtype.hasobject:
                stack.extend(value.flat)
        elif isinstance(value, FunctionType):
            self._note_function(value, stack)
        elif isinstance(value, MethodType):
            stack += (value.__self__, value.__func__)
        elif isinstance(value, (staticmethod, classmethod)):
            stack.append(value.__func__)
        elif isinstance(value, property):
            stack.append(value.fget)
        elif isinstance(value, functools.partial):
            stack += (value.func, value.args, value.keywords)
        elif isinstance(value, _CACHE):
            self._undo.append(functools.partial(_forget, value, value.cache_info()))  # type: ignore[attr-defined]
            stack.append(value.__wrapped__)  # type: ignore[attr-defined]
        elif is_iterator(value):
            self._iterators.setdefault(id(value), Lent(value))
        elif not _is_foreign(kind := type(value)) or kind.__module__ in _CONTAINERS:
            if kind not in self._seen_classes:
                self._seen_classes.add(kind)
                self._note_class(kind, stack)
            stack.append(getattr(value, "__dict__", None))
            for name in _slots(kind):
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
                    self._hold(item, functools.partial(setattr, base, name))

    def _note_function(self, function: FunctionType, stack: list[Any]) -> None:
        if _is_foreign(function):
            return
        stack += (function.__dict__, function.__defaults__, function.__kwdefaults__)
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # not yet filled
                continue
            self._hold(content, functools.partial(setattr, cell, "cell_contents"))
            self._undo.append(functools.partial(setattr, cell, "cell_contents", content))
            stack.append(content)
        scope, sets = function.__globals__, _STORE_GLOBAL in function.__code__.co_code[::2]
        for name in function.__code__.co_names:
            named = scope.get(name)
            if named is not None and not isinstance(named, (type, ModuleType)):
                stack.append(named)
                self._hold(named, functools.partial(scope.__setitem__, name))
            if sets and name in scope:
                self._undo.append(functools.partial(scope.__setitem__, name, named))

    def _hold(self, value: Any, put: Callable[[Any], object]) -> None:
        """Notes a place outside of lists and dictionaries, if an iterator is there."""
        if is_iterator(value):
            self._iterators.setdefault(id(value), Lent(value)).places.append(put)

    def _find_iterators(self) -> None:
        """Notes the lists and dictionaries that iterators are in."""
        for mapping, before in self._dicts if self._iterators else ():
            for key, item in before.items():
                if (lent := self._iterators.get(id(item))) is not None:
                    lent.places.append(functools.partial(mapping.__setitem__, key))
        for items in self._lists if self._iterators else ():
            for k, item in enumerate(items):
                if (lent := self._iterators.get(id(item))) is not None:
                    lent.places.append(functools.partial(items.__setitem__, k))


def _is_foreign(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] in _FOREIGN


def _slots(kind: type) -> tuple[str, ...]:
    names: list[str] = []
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _copy(mapping: dict[Any, Any]) -> dict[Any, Any]:
    """What a dictionary holds, without looking it up: the activations of transformers are made at
    each look-up.
    """
    if type(mapping) is dict:
        return mapping.copy()
    return dict((OrderedDict if isinstance(mapping, OrderedDict) else dict).items(mapping))


def _restore_dict(current: dict[Any, Any], before: dict[Any, Any]) -> None:
    same = len(current) == len(before) and all(map(is_, current, before))
    if not (same and all(map(is_, current.values(), before.values()))):
        current.clear()
        current.update(before)


def _restore_list(current: list[Any] | deque[Any], before: list[Any]) -> None:
    if len(current) != len(before) or any(a is not b for a, b in zip(current, before, strict=True)):
        current.clear()
        current.extend(before)


def _restore_set(current: set[Any], before: set[Any]) -> None:
    if current != before:
        current.clear()
        current.update(before)


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
