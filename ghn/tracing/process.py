"""What puts back what belongs to the process and not to a network: random states, the settings of
PyTorch, NumPy, Python and the system, loggers, the environment, built-in names, imported modules.
"""

from __future__ import annotations

import builtins
import contextlib
import decimal
import functools
import gc
import locale
import logging
import os
import random
import re
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from operator import is_
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.backends import cuda, cudnn, mha, mkldnn

from ghn.tracing.undo import Undo

_MISSING = object()


_locale = functools.partial(locale.setlocale, locale.LC_ALL)


def _umask() -> int:
    """Permissions that new files do not get; Linux says them, elsewhere they are read by being set,
    which other threads would notice.
    """
    found = re.search(rb"^Umask:\s*(\d+)", Path("/proc/self/status").read_bytes(), re.MULTILINE)
    if found is None:
        raise OSError("the system does not say it")
    return int(found[1], 8)


_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (torch.is_warn_always_enabled, torch.set_warn_always),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    (mha.get_fastpath_enabled, mha.set_fastpath_enabled),
    (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
    (cuda.math_sdp_enabled, cuda.enable_math_sdp),
    (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
    (os.getcwd, os.chdir),
    (_umask, os.umask),
    (_locale, _locale),
    (socket.getdefaulttimeout, socket.setdefaulttimeout),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (sys.getswitchinterval, sys.setswitchinterval),
    (sys.gettrace, sys.settrace),
    (sys.getprofile, sys.setprofile),
    (gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    (gc.get_threshold, lambda numbers: gc.set_threshold(*numbers)),
)
"""What reads a setting, and what sets it."""

_ATTRIBUTES = (
    (cudnn, ("enabled", "benchmark", "deterministic", "allow_tf32")),
    (cuda.matmul, ("allow_tf32",)),
    (mkldnn, ("enabled",)),
)


def process_state() -> list[Any]:
    """Containers in which PyTorch and Python keep what belongs to the process."""
    hooks = [value for name, value in vars(torch.nn.modules.module).items() if "_hooks" in name]
    return [*hooks, vars(torch._tensor_str.PRINT_OPTS), sys.path, sys.argv]


def undo_of_process(tensors: Iterable[Tensor]) -> list[Undo]:
    """What puts back the global random states of Python, NumPy and PyTorch, here and on the devices
    of `tensors`, all settings, loggers and the environment.
    """
    legacy = np.random.mtrand._rand  # what `np.random.rand` and the like draw from
    devices = {tensor.device for tensor in tensors} - {torch.device("cpu"), torch.device("meta")}
    kinds = {"cpu", *(device.type for device in devices)}
    return [
        functools.partial(torch.set_rng_state, torch.get_rng_state()),
        functools.partial(random.setstate, random.getstate()),
        functools.partial(legacy.set_state, legacy.get_state()),
        *map(_undo_of_device, devices),
        *(_undo_of_setting(*setting) for setting in _SETTINGS),
        *(
            _undo_of_setting(
                functools.partial(getattr, owner, name), functools.partial(setattr, owner, name)
            )
            for owner, names in _ATTRIBUTES
            for name in names
        ),
        *(undo for kind in kinds for undo in _undo_of_autocast(kind)),
        _undo_of_setting(torch.get_default_device, _set_default_device),
        functools.partial(_restore_environment, dict(os.environ)),
        _undo_of_loggers(),
        _undo_of_signals(),
        _undo_of_names(vars(builtins), stays=lambda _: False),
        _undo_of_names(sys.modules, stays=_is_imported),
    ]


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Gives a pass filters of warnings and a decimal context of its own."""
    with warnings.catch_warnings(), decimal.localcontext():
        yield


def _undo_of_device(device: torch.device) -> Undo:
    backend = torch.get_device_module(device)
    return functools.partial(backend.set_rng_state, backend.get_rng_state(device), device)


def _undo_of_setting(get: Callable[[], Any], put: Callable[[Any], Any]) -> Undo:
    try:
        before = get()
    except (RuntimeError, OSError):  # PyTorch does not say, or the directory is gone
        return lambda: None

    def undo() -> None:
        if get() != before:
            put(before)

    return undo


def _undo_of_autocast(kind: str) -> list[Undo]:
    pairs = (
        (torch.is_autocast_enabled, torch.set_autocast_enabled),
        (torch.get_autocast_dtype, torch.set_autocast_dtype),
    )
    return [
        _undo_of_setting(functools.partial(get, kind), functools.partial(put, kind))
        for get, put in pairs
    ]


def _set_default_device(device: torch.device) -> None:
    torch.set_default_device(None if device == torch.device("cpu") else device)


def _undo_of_signals() -> Undo:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def undo() -> None:
        if threading.current_thread() is not threading.main_thread():  # which alone can set some
            return
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)

    return undo


def _undo_of_names(scope: dict[str, Any], stays: Callable[[Any], bool]) -> Undo:
    """Of all names of a scope; new ones go but those of things that stay."""
    before = dict(scope)

    def undo() -> None:
        now = dict(scope)
        if len(now) == len(before) and all(map(is_, now.values(), before.values())):
            return
        for name, item in now.items():
            if name not in before and not stays(item):
                scope.pop(name, None)
        for name, item in before.items():
            if scope.get(name, _MISSING) is not item:
                scope[name] = item

    return undo


def _is_imported(module: Any) -> bool:
    return isinstance(module, ModuleType) and module.__spec__ is not None


def _restore_environment(before: dict[str, str]) -> None:
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


def _loggers() -> list[logging.Logger]:
    named = logging.root.manager.loggerDict.values()
    return [logging.root, *(item for item in named if isinstance(item, logging.Logger))]


def _about(logger: logging.Logger) -> tuple[int, bool, bool, list[logging.Handler]]:
    return logger.level, logger.disabled, logger.propagate, list(logger.handlers)


def _undo_of_loggers() -> Undo:
    """Of levels, flags and handlers; a logger that a pass made becomes as if it were new."""
    before = {logger: _about(logger) for logger in _loggers()}
    disabled = logging.root.manager.disable

    def undo() -> None:
        for logger in _loggers():
            about = before.get(logger, (logging.NOTSET, False, True, []))
            if _about(logger) != about:
                logger.setLevel(about[0])
                logger.disabled, logger.propagate, logger.handlers[:] = about[1:]
        if logging.root.manager.disable != disabled:
            logging.disable(disabled)

    return undo
