"""Networks of a user's own, by the name of what makes them: `my.py:SmallCNN`, `package:make`.

Naming one runs its file, once until it changes, so names come from a user's command line only:
never from a file that was read or a request.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ghn.architectures import build, construct
from ghn.errors import ConfigError, GHNError, UnknownArchitectureError
from ghn.failures import reason
from ghn.files import file_stamp

_CLASSES = ("num_classes", "classes", "n_classes")
_SIZES = ("image_size", "img_size")


def is_own(name: str) -> bool:
    """Whether `name` is of the form `FILE.py:NAME` or `MODULE:NAME`."""
    return ":" in name


def network(
    name: str,
    num_classes: int,
    image_size: int,
    device: torch.device | str | None = None,
) -> nn.Module:
    """A network by any name that the command line takes, freshly initialised.

    Args:
        name: as `ghn.architectures.build` takes it, or `FILE.py:NAME` or `MODULE:NAME` of a class
            or function. It is called with the classes if it has an argument `num_classes`,
            `classes` or `n_classes`, and with the size if it has `image_size` or `img_size`; its
            other arguments need defaults.
        num_classes: outputs of the class head.
        image_size: side in pixels.
        device: where its parameters go.

    Raises:
        UnknownArchitectureError: there is no such file, module or name in it.
        ConfigError: it cannot be called so, raises an error, or does not give a network.
    """
    if not is_own(name):
        return build(name, num_classes, image_size, device)
    factory = find_factory(name)
    wanted = {**dict.fromkeys(_CLASSES, num_classes), **dict.fromkeys(_SIZES, image_size)}
    parameters = _parameters(factory)
    arguments = {p.name: wanted[p.name] for p in parameters if p.name in wanted}
    if missing := [p.name for p in parameters if _is_required(p) and p.name not in arguments]:
        raise ConfigError(
            f"{name} needs {', '.join(missing)}: name a function that calls it with them"
        )
    device = torch.device(device or torch.get_default_device())
    try:
        made = construct(partial(factory, **arguments), device)
    except GHNError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise ConfigError(f"{name} cannot be made: {reason(error, with_type=True)}") from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{name} gives a {type(made).__name__}, not a torch.nn.Module")
    return made.to(device) if device.type == "meta" else made


def takes_classes(name: str) -> bool:
    """Whether the number of classes can be told to the network `name`.

    Raises:
        UnknownArchitectureError, ConfigError: as `find_factory`.
    """
    return not is_own(name) or any(p.name in _CLASSES for p in _parameters(find_factory(name)))


def _parameters(factory: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(factory).parameters.values())
    except ValueError:  # some that are written in C do not say
        return []


def find_factory(name: str) -> Callable[..., Any]:
    """The class or function that `name` means; runs its file.

    Raises:
        UnknownArchitectureError: there is no such file, module or name in it.
        ConfigError: the file cannot be run, or the name is no class or function.
    """
    place, _, attribute = name.rpartition(":")
    module = _module(place)
    if not hasattr(module, attribute):
        known = [key for key, value in vars(module).items() if inspect.isclass(value)]
        near = difflib.get_close_matches(attribute, known, n=3)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise UnknownArchitectureError(f"{place} has no {attribute!r}{hint}")
    found = getattr(module, attribute)
    if isinstance(found, nn.Module) or not callable(found):
        raise ConfigError(
            f"{name} is a {type(found).__name__}; name the class or function that makes the network"
        )
    return found  # type: ignore[no-any-return]


def _module(place: str) -> ModuleType:
    path = Path(place)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise UnknownArchitectureError(f"{place} does not exist; write FILE.py:NAME")
    try:
        return _run(path.resolve()) if is_file else _imported(place)
    except UnknownArchitectureError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise ConfigError(f"{place} cannot be imported: {type(error).__name__}: {error}") from error


_STAMPS: dict[str, tuple[int, ...]] = {}
"""The `file_stamp` of each file that was run, by the name of its module."""


def _run(path: Path) -> ModuleType:
    """The module that a file makes, which runs again only if the file has changed.

    Its name is its own, so that a file may be called like any package.
    """
    name = f"_own_{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}_{path.stem}"
    stamp = file_stamp(path)
    if name in sys.modules and _STAMPS.get(name) == stamp:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        with _importing_from(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _STAMPS[name] = stamp
    return module


def _imported(place: str) -> ModuleType:
    """Module `place`, which may lie in the current directory."""
    try:
        with _importing_from(Path.cwd()):
            return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and f"{place}.".startswith(f"{error.name}."):
            raise UnknownArchitectureError(
                f"no module {place!r} here; write FILE.py:NAME or MODULE:NAME"
            ) from None
        raise


_OURS = ("datasets", "flows", "ghn")
"""Packages that stay ours, whatever a user's files are called."""


@contextmanager
def _importing_from(directory: Path) -> Iterator[None]:
    """Imports within it look into `directory` first, and later ones (in a forward pass, in worker
    processes) last.

    A module from there with the name of a package of ours stays with those that have imported it
    already. The random state stays as it is.
    """
    place = str(directory)
    absent = [name for name in _OURS if name not in sys.modules]
    sys.path.insert(0, place)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        with suppress(ValueError):  # the user's code has removed it
            sys.path.remove(place)
        if place not in sys.path:
            sys.path.append(place)
        for name in absent:
            _uncover(name)


def _uncover(name: str) -> None:
    """Forgets package `name` if imports would find another one by that name."""
    module = sys.modules.pop(name, None)
    if module is None:
        return
    found = importlib.util.find_spec(name)
    if found is None or found.origin == getattr(module.__spec__, "origin", None):
        sys.modules[name] = module
        return
    for inside in [other for other in sys.modules if other.startswith(f"{name}.")]:
        del sys.modules[inside]


def _is_required(parameter: inspect.Parameter) -> bool:
    variadic = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in variadic
