"""What a network is before a forward pass, to be put back after it.

A forward pass may leave anything behind: tables and features in attributes, lists and dictionaries,
hooks that it installs, values of parameters that it clips, random numbers that it draws. A snapshot
follows everything that can be reached from a network's modules: their attributes, containers and
plain objects in these, closures of hooks, classes, and what methods and functions name as globals,
the attributes of modules among them. What belongs to the process is in `process`.

What is out of reach: what C extensions keep to themselves (cursors of data bases, writers of CSV),
what was written to pipes and sockets, other threads, and what a pass imports.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from types import FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ghn.tracing import code
from ghn.tracing.iterators import (
    Lent,
    LentIterator,
    find_places,
    is_iterator,
    is_method_of_iterator,
    lend_holders,
)
from ghn.tracing.process import process_state, undo_of_process
from ghn.tracing.undo import (
    CACHE,
    Undo,
    forget,
    own_methods,
    restore_dict,
    restore_list,
    restore_set,
    set_arguments,
    undo_of,
    undo_of_hooks,
    undo_of_tensor,
)

_ATOMS = frozenset(
    (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
)
_CONTAINERS = (dict, list, set, deque, Tensor, np.ndarray)
"""What is noted of modules and classes that are only named."""

_Put = Callable[[Any], object]


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
        self._objects: list[tuple[Any, type, dict[str, Any] | None]] = []
        self._classes: set[type] = set()
        self._undo: list[Undo] = []
        self._values: list[Undo] = []
        self._lists: list[list[Any] | deque[Any]] = []
        self._holders: list[Any] = []
        self._places: list[tuple[Any, _Put]] = []
        self._lent: dict[int, Lent] = {}
        self._walk(root)
        for tensor in self._registered:
            self._note_attributes(tensor)
        for state in process_state():
            self._walk(state)
        dicts = [(found.__setitem__, before.items()) for found, before in self._dicts]
        lists = [(found.__setitem__, enumerate(found)) for found in self._lists]
        lend_holders(self._holders, self._lent)
        find_places(self._places, [*dicts, *lists], self._lent)
        self._undo += undo_of_process(self._registered)

    def lend(self) -> None:
        """Puts stand-ins in the places of iterators, which cannot be rewound, for a pass."""
        for lent in self._lent.values():
            lent.lend()

    def keep_values(self) -> None:
        """Copies the values of parameters and buffers, for a pass that computes with them."""
        self._values = [undo for t in self._registered if (undo := undo_of_tensor(t)) is not None]

    def restore(self) -> None:
        """Puts everything back; what has not changed is not touched."""
        for thing, kind, attributes in self._objects:
            if type(thing) is not kind:  # lazy modules become others
                object.__setattr__(thing, "__class__", kind)
            if attributes is not None and vars(thing) is not attributes:
                object.__setattr__(thing, "__dict__", attributes)
        for empty in self._empty:
            if empty:
                own_methods(empty).clear(empty)
        for current, before in self._dicts:
            restore_dict(current, before)
        for undo in (*self._undo, *self._values):
            undo()
        for lent in self._lent.values():
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
            if isinstance(value, nn.Module):
                self._note_object(value, kind, stack)
            elif isinstance(value, dict):
                self._note_dict(value, kind, stack)
            elif isinstance(value, Tensor):
                self._note_tensor(value)
            else:
                self._note(value, kind, stack)

    def _note_tensor(self, tensor: Tensor) -> None:
        if id(tensor) not in self.tensors:
            self.tensors[id(tensor)] = tensor
            if (undo := undo_of_tensor(tensor)) is not None:
                self._undo.append(undo)
            self._note_attributes(tensor)

    def _note_attributes(self, tensor: Tensor) -> None:
        """Notes what Python keeps with a tensor."""
        self._undo.append(undo_of_hooks(tensor))
        for kept in (vars(tensor), tensor._backward_hooks):
            if kept:
                self._walk(kept)
            elif kept is not None:
                self._empty.append(kept)

    def _note_dict(self, value: dict[Any, Any], kind: type, stack: list[Any]) -> None:
        before = value.copy() if kind is dict else dict(own_methods(value).items(value))
        self._dicts.append((value, before))
        stack.extend(before.values())
        stack.extend(key for key in before if type(key) is not str)
        if isinstance(value, defaultdict):
            self._hold(value.default_factory, functools.partial(setattr, value, "default_factory"))
            stack.append(value.default_factory)
        if kind not in (dict, OrderedDict, defaultdict):
            self._note_object(value, kind, stack)

    def _note(self, value: Any, kind: type, stack: list[Any]) -> None:
        """Notes a container, something that moves or an object, and what it holds."""
        if isinstance(value, (list, deque)):
            before = list.copy(value) if isinstance(value, list) else list(deque.__iter__(value))
            self._lists.append(value)
            self._undo.append(functools.partial(restore_list, value, before))
            stack.extend(before)
        elif isinstance(value, set):
            self._undo.append(functools.partial(restore_set, value, set(value)))
            stack.extend(value)
        elif isinstance(value, (tuple, frozenset)):
            self._holders.append(value)
            stack.extend(value)
        elif isinstance(value, type):
            self._note_class(value, stack, whole=False)
            return
        elif (undo := undo_of(value)) is not None:
            self._undo.append(undo)
            if isinstance(value, np.ndarray) and value.dtype.hasobject:
                stack.extend(value.flat)
        elif self._note_callable(value, stack):
            return
        elif isinstance(value, MappingProxyType):
            stack.extend(value.values())
        elif isinstance(value, weakref.ReferenceType):
            stack.append(value())
        elif isinstance(value, ContextVar):
            with suppress(LookupError):  # not set here, and without a default
                stack.append(value.get())
        elif is_iterator(value):
            self._lent[id(value)] = LentIterator(value)
            return
        self._note_object(value, kind, stack)

    def _note_callable(self, value: Any, stack: list[Any]) -> bool:
        if isinstance(value, FunctionType):
            self._note_function(value, stack)
        elif isinstance(value, MethodType):
            stack += (value.__self__, value.__func__)
        elif isinstance(value, (staticmethod, classmethod)):
            stack.append(value.__func__)
        elif isinstance(value, property):
            stack += (value.fget, value.fset, value.fdel)
        elif isinstance(value, functools.partial):
            self._hold(value.args, functools.partial(set_arguments, value))
            stack += (value.func, value.args, value.keywords)
        elif isinstance(value, CACHE):
            self._undo.append(functools.partial(forget, value, value.cache_info()))  # type: ignore[attr-defined]
            stack.append(value.__wrapped__)  # type: ignore[attr-defined]
        elif is_method_of_iterator(value):
            self._holders.append(value)
            stack.append(value.__self__)
        else:
            return False
        return True

    def _note_object(self, value: Any, kind: type, stack: list[Any]) -> None:
        """Notes class and attributes of an object, if it is of the network's own kinds."""
        own = isinstance(value, (nn.Module, threading.Event, threading.Semaphore))
        if not (own or code.is_followed(kind)):
            return
        attributes = getattr(value, "__dict__", None)
        attributes = attributes if type(attributes) is dict else None  # a class's is no dictionary
        self._objects.append((value, kind, attributes))
        self._note_class(kind, stack)
        stack.append(attributes)
        for name in code.slots_of(kind):
            self._undo.append(code.undo_of_slot(value, name))
            item = getattr(value, name, None)
            self._hold(item, functools.partial(object.__setattr__, value, name))
            stack.append(item)

    def _note_class(self, kind: type, stack: list[Any], whole: bool = True) -> None:
        """Notes the attributes of a class; of one that only has a name, maybe fewer."""
        if kind in self._classes:
            return
        if whole:
            self._classes.add(kind)
        for base in (*kind.__mro__, *type.mro(type(kind))):
            key = id(base) if whole else -id(base)
            if key in self._seen or code.is_foreign(base):
                continue
            self._seen[key] = base
            self._undo.append(code.undo_of_class(base))
            noted: Any = object if whole or not code.is_installed(base) else _CONTAINERS
            for name, item in list(vars(base).items()):
                if isinstance(item, noted):
                    stack.append(item)
                    self._hold(item, functools.partial(setattr, base, name))

    def _note_function(self, function: FunctionType, stack: list[Any]) -> None:
        if code.is_foreign(function):
            return
        stack += (function.__dict__, function.__defaults__, function.__kwdefaults__)
        self._hold(function.__defaults__, functools.partial(setattr, function, "__defaults__"))
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # not yet filled
                continue
            self._hold(content, functools.partial(setattr, cell, "cell_contents"))
            self._undo.append(functools.partial(setattr, cell, "cell_contents", content))
            stack.append(content)
        used = code.used_by(function.__code__)
        for name in used.names:
            scope = function.__globals__
            if used.sets_globals:
                self._undo.append(code.undo_of_item(scope, name))
            named = scope.get(name)
            if isinstance(named, ModuleType):
                self._note_module(named, used, stack)
            elif named is not None:
                stack.append(named)
                self._hold(named, functools.partial(scope.__setitem__, name))

    def _note_module(self, module: ModuleType, used: code.Used, stack: list[Any]) -> None:
        """Notes the attributes of a module that a function names."""
        scope, installed = vars(module), code.is_installed(module)
        for name in used.names:
            if used.sets_attributes:
                self._undo.append(code.undo_of_item(scope, name))
            item = scope.get(name)
            if not code.is_foreign(module) and (not installed or isinstance(item, _CONTAINERS)):
                stack.append(None if isinstance(item, ModuleType) else item)
                self._hold(item, functools.partial(scope.__setitem__, name))

    def _hold(self, value: Any, put: _Put) -> None:
        """Notes a place outside of lists and dictionaries, if there may be an iterator in it."""
        if isinstance(value, tuple) or is_iterator(value) or is_method_of_iterator(value):
            self._places.append((value, put))
