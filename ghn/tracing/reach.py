"""What can be reached from a network: all that a forward pass may change, and what puts it back.

It begins at the modules and goes on through attributes, containers and plain objects, closures of
hooks, classes, and what methods and functions name: globals, and attributes of modules and classes,
also of libraries where a function may set some (`torch.nn.functional.relu = ...`).
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
from ghn.tracing.iterators import Lent, LentIterator, is_iterator, is_method_of_iterator
from ghn.tracing.undo import (
    CACHE,
    Undo,
    forget,
    own_methods,
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


class Reach:
    """What was found, by reference.

    Attributes:
        tensors: by identity.
        dicts: with their items.
        empty: dictionaries without any.
        objects: with their classes and attributes.
        undo: what puts single things back, unless they are as they were.
        lists: found on the way.
        holders: tuples, sets that cannot be changed, and methods of iterators.
        places: outside of lists and dictionaries, where something is that may move.
        lent: iterators, by identity.
    """

    def __init__(self, registered: Iterable[Tensor]) -> None:
        self.tensors: dict[int, Tensor] = {id(tensor): tensor for tensor in registered}
        self.dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self.empty: list[dict[Any, Any]] = []
        self.objects: list[tuple[Any, type, dict[str, Any] | None]] = []
        self.undo: list[Undo] = []
        self.lists: list[list[Any] | deque[Any]] = []
        self.holders: list[Any] = []
        self.places: list[tuple[Any, _Put]] = []
        self.lent: dict[int, Lent] = {}
        self._seen: dict[int, Any] = {}
        self._classes: set[type] = set()

    def follow(self, root: Any) -> None:
        """Notes `root` and all that it leads to."""
        stack = [root]
        while stack:
            value = stack.pop()
            kind = type(value)
            if kind in _ATOMS or id(value) in self._seen:
                continue
            if kind in (dict, OrderedDict) and not value:  # most are: hooks of modules
                self.empty.append(value)
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
                self.undo.append(undo)
            self.note_attributes(tensor)

    def note_attributes(self, tensor: Tensor) -> None:
        """Notes what Python keeps with a tensor."""
        self.undo.append(undo_of_hooks(tensor))
        for kept in (vars(tensor), tensor._backward_hooks):
            if kept:
                self.follow(kept)
            elif kept is not None:
                self.empty.append(kept)

    def _note_dict(self, value: dict[Any, Any], kind: type, stack: list[Any]) -> None:
        before = value.copy() if kind is dict else dict(own_methods(value).items(value))
        self.dicts.append((value, before))
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
            self.lists.append(value)
            self.undo.append(functools.partial(restore_list, value, before))
            stack.extend(before)
        elif isinstance(value, set):
            self.undo.append(functools.partial(restore_set, value, set(value)))
            stack.extend(value)
        elif isinstance(value, (tuple, frozenset)):
            self.holders.append(value)
            stack.extend(value)
        elif isinstance(value, type):
            self._note_class(value, stack, whole=False)
            return
        elif (undo := undo_of(value)) is not None:
            self.undo.append(undo)
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
            self.lent[id(value)] = LentIterator(value)
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
            self.undo.append(functools.partial(forget, value, value.cache_info()))  # type: ignore[attr-defined]
            stack.append(value.__wrapped__)  # type: ignore[attr-defined]
        elif is_method_of_iterator(value):
            self.holders.append(value)
            stack.append(value.__self__)
        else:
            return False
        return True

    def _note_object(self, value: Any, kind: type, stack: list[Any]) -> None:
        """Notes class and attributes of an object, if it is of the network's own kinds."""
        own = isinstance(value, (nn.Module, threading.Event, threading.Semaphore))
        if not (own or code.is_followed(kind)):
            return
        attributes = code.held(value, "__dict__")
        attributes = attributes if type(attributes) is dict else None  # a class's is no dictionary
        self.objects.append((value, kind, attributes))
        self._note_class(kind, stack)
        stack.append(attributes)
        for name in code.slots_of(kind):
            self.undo.append(code.undo_of_slot(value, name))
            item = code.held(value, name)
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
            if code.is_foreign(base):
                if issubclass(base, nn.Module):
                    self._note_library(base)
                continue
            if key in self._seen:
                continue
            self._seen[key] = base
            self.undo.append(code.undo_of_class(base))
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
            self.undo.append(functools.partial(setattr, cell, "cell_contents", content))
            stack.append(content)
        used, scope = code.used_by(function.__code__), function.__globals__
        if used.sets_globals:
            self.undo += [code.undo_of_item(scope, name) for name in used.names]
        for name, named in code.named_by(used, scope):
            if isinstance(named, ModuleType):
                if code.is_foreign(named) and not used.sets_attributes:
                    continue
                for module in code.modules_from(named, used.names):
                    self._note_module(module, used, stack)
            else:
                stack.append(named)
                self._note_patched(named, used)
                self._hold(named, functools.partial(scope.__setitem__, name))

    def _note_module(self, module: ModuleType, used: code.Used, stack: list[Any]) -> None:
        """Notes the attributes of a module that a function names."""
        scope, installed = vars(module), code.is_installed(module)
        for name in used.names:
            if used.sets_attributes:
                self.undo.append(code.undo_of_item(scope, name))
            item = scope.get(name)
            self._note_patched(item, used)
            if not code.is_foreign(module) and (not installed or isinstance(item, _CONTAINERS)):
                stack.append(None if isinstance(item, ModuleType) else item)
                self._hold(item, functools.partial(scope.__setitem__, name))

    def _note_patched(self, named: Any, used: code.Used) -> None:
        """Notes the attributes of a library's class that a function names and may set."""
        if used.sets_attributes and isinstance(named, type) and code.is_foreign(named):
            self._note_library(named)

    def _note_library(self, kind: type) -> None:
        if -id(kind) not in self._seen:
            self._seen[-id(kind)] = kind
            self.undo.append(code.undo_of_class(kind))

    def _hold(self, value: Any, put: _Put) -> None:
        """Notes a place outside of lists and dictionaries, if there may be an iterator in it."""
        if isinstance(value, tuple) or is_iterator(value) or is_method_of_iterator(value):
            self.places.append((value, put))
