"""What code can change outside of the objects that it is called on: names in its functions."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from opcode import opmap
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from ghn.tracing.undo import Undo

_FOREIGN = sys.stdlib_module_names | {"torch", "numpy"}
"""Packages whose objects, functions and classes are not followed; their containers are."""

_OWN = {"argparse", "collections", "contextlib", "multiprocessing.sharedctypes", "queue"}
_OWN |= {"tempfile", "types", "weakref", "_weakrefset", "_thread", "torch.quasirandom"}
_OWN_PARTS = ("torch.optim.", "torch.distributions.")
"""Modules of them whose objects are followed all the same: what they hold is ours."""

_MISSING = object()


def is_foreign(thing: Any) -> bool:
    """Whether a function, class or module is of Python or a library that is not followed."""
    name = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", "")
    return str(name).partition(".")[0] in _FOREIGN


def is_followed(kind: type) -> bool:
    """Whether the attributes of objects of a class are noted."""
    module = kind.__module__
    return not is_foreign(kind) or module in _OWN or f"{module}.".startswith(_OWN_PARTS)


_INSTALLED = tuple(sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib"))


def is_installed(thing: Any) -> bool:
    """Whether a class or module is of an installed package: its functions are not followed, except
    where an object of the network leads to them.
    """
    name = thing.__name__ if isinstance(thing, ModuleType) else thing.__module__
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return file.startswith(_INSTALLED)


class Used(NamedTuple):
    """What a function does beside its arguments, functions defined in it included.

    Attributes:
        names: of globals, attributes and modules, and strings, which may be any of them.
        sets_globals: whether it may set globals.
        sets_attributes: whether it may set attributes.
        imports: whether it imports modules.
    """

    names: frozenset[str]
    sets_globals: bool
    sets_attributes: bool
    imports: bool


def used_by(code: CodeType) -> Used:
    """Reads what a function uses from its code."""
    codes = list(_nested(code))
    consts = [const for part in codes for const in part.co_consts]
    consts += [item for const in consts if isinstance(const, (tuple, frozenset)) for item in const]
    texts = {const for const in consts if isinstance(const, str)}
    names = {name for part in codes for name in part.co_names}
    operations = {operation for part in codes for operation in part.co_code[::2]}
    return Used(
        frozenset(names | {text for text in texts if text.replace(".", "_").isidentifier()}),
        opmap["STORE_GLOBAL"] in operations or "globals" in names,
        not operations.isdisjoint((opmap["STORE_ATTR"], opmap["DELETE_ATTR"]))
        or not names.isdisjoint(("setattr", "delattr", "vars", "__dict__")),
        opmap["IMPORT_NAME"] in operations
        or not names.isdisjoint(("import_module", "__import__", "modules")),
    )


def named_by(used: Used, scope: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The globals that a function names, and the modules that it imports if they are imported."""
    package = scope.get("__package__")
    for name in used.names:
        if (named := scope.get(name)) is not None:
            yield name, named
        elif used.imports:
            for module in (name, f"{package}.{name}"):
                if (found := sys.modules.get(module)) is not None:
                    yield name, found


def modules_from(module: ModuleType, names: frozenset[str]) -> list[ModuleType]:
    """A module and those that chains of attributes lead to, as `functional` of `torch.nn`."""
    found = [module]
    for inside in found:  # which grows
        items = (vars(inside).get(name) for name in names)
        found += {id(m): m for m in items if isinstance(m, ModuleType) and m not in found}.values()
    return found


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _nested(const)


def undo_of_item(scope: dict[str, Any], name: str) -> Undo:
    """What puts back a global, which may not be there."""
    before = scope.get(name, _MISSING)
    if before is _MISSING:
        return partial(_remove, scope, name)
    return partial(scope.__setitem__, name, before)


def _remove(scope: dict[str, Any], name: str) -> None:
    if not isinstance(scope.get(name), ModuleType):  # imported just now
        scope.pop(name, None)


def undo_of_class(kind: type) -> Undo:
    """What puts back the attributes of a class."""
    before = dict(vars(kind))

    def undo() -> None:
        now = vars(kind)
        if len(now) == len(before) and all(now.get(name) is item for name, item in before.items()):
            return
        with suppress(AttributeError, TypeError):
            for name in [name for name in now if name not in before]:
                type.__delattr__(kind, name)
            for name, item in before.items():
                if now.get(name, _MISSING) is not item:
                    type.__setattr__(kind, name, item)

    return undo


def slots_of(kind: type) -> tuple[str, ...]:
    """The names of attributes that objects of a class have outside of `__dict__`."""
    names: list[str] = []
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        own = (slots,) if isinstance(slots, str) else slots
        names += [_mangled(base, name) for name in own if name not in ("__dict__", "__weakref__")]
    return tuple(names)


def _mangled(kind: type, name: str) -> str:
    """A private name of a class (`__n`) as its objects have it."""
    private = name.startswith("__") and not name.endswith("__")
    return f"_{kind.__name__.lstrip('_')}{name}" if private else name


def held(target: Any, name: str, default: Any = None) -> Any:
    """An attribute that an object has; its class is not asked for others (`__getattr__`), which may
    do or raise anything.
    """
    kind: Any = type(target)
    try:
        return kind.__getattribute__(target, name)
    except Exception:  # a property of that name is any code, too
        return default


def undo_of_slot(target: Any, name: str) -> Undo:
    """What puts back an attribute that has a slot."""
    before = held(target, name, _MISSING)

    def undo() -> None:
        if (now := held(target, name, _MISSING)) is before:
            return
        if before is _MISSING:
            object.__delattr__(target, name)
        elif now is not before:
            object.__setattr__(target, name, before)

    return undo
