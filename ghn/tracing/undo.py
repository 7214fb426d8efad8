"""What puts single values back: of tensors, arrays, queues, generators of random numbers, files."""

from __future__ import annotations

import array
import functools
import io
import mmap
import os
import queue
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

Undo = Callable[[], object]
CACHE: type = type(functools.lru_cache(len))


def undo_of_tensor(tensor: Tensor) -> Undo | None:
    """What puts a tensor's values, storage, gradient and flag back; None if it has no values.

    The values go through `Tensor.data`, which leaves the version alone that autograd looks at.
    """
    if tensor.is_meta or type(tensor.data) is not Tensor:
        return None
    if tensor.layout is torch.sparse_coo:
        return functools.partial(torch.no_grad()(tensor.copy_), tensor.detach().clone())
    if tensor.layout is not torch.strided:
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


def undo_of_hooks(tensor: Tensor) -> Undo:
    """What removes hooks of a backward pass that a tensor without such hooks got."""
    names = ("_backward_hooks", "_post_accumulate_grad_hooks")
    absent = [name for name in names if getattr(tensor, name) is None]

    def undo() -> None:
        for name in absent:
            if getattr(tensor, name) is not None:
                setattr(tensor, name, None)

    return undo


def undo_of(value: Any) -> Undo | None:
    """What puts an array, a generator of random numbers or a file back; None if `value` is none."""
    if isinstance(value, np.ndarray):
        return functools.partial(_restore_array, value, value.copy())
    if isinstance(value, (bytearray, array.array)):
        return functools.partial(_restore_items, value, value[:])
    if isinstance(value, io.IOBase):
        return _undo_of_file(value)
    if isinstance(value, queue.SimpleQueue):
        return functools.partial(_refill, value, _drained(value))
    if isinstance(value, torch.UntypedStorage) and value.device.type == "cpu":
        return functools.partial(value.copy_, value.clone())  # type: ignore[no-untyped-call]
    if isinstance(value, (memoryview, mmap.mmap)) or _is_of_c(value):
        return _undo_of_buffer(value)
    return _undo_of_generator(value)


def _is_of_c(value: Any) -> bool:
    """Whether a value is one of ctypes."""
    return any(base.__module__ == "_ctypes" for base in type(value).__mro__)


def _undo_of_buffer(value: Any) -> Undo | None:
    with suppress(TypeError, ValueError), memoryview(value) as view:
        if not view.readonly and view.contiguous:
            return functools.partial(_restore_buffer, value, view.tobytes())
    return None


def _restore_buffer(value: Any, before: bytes) -> None:
    with memoryview(value) as view:
        if view.tobytes() != before:
            view.cast("B")[:] = before


def _drained(waiting: queue.SimpleQueue[Any]) -> list[Any]:
    """The items of a queue, which has them again afterwards."""
    items = []
    with suppress(queue.Empty):
        while True:
            items.append(waiting.get_nowait())
    _put_all(waiting, items)
    return items


def _put_all(waiting: queue.SimpleQueue[Any], items: list[Any]) -> None:
    for item in items:
        waiting.put(item)


def _refill(waiting: queue.SimpleQueue[Any], before: list[Any]) -> None:
    with suppress(queue.Empty):
        while True:
            waiting.get_nowait()
    _put_all(waiting, before)


def _undo_of_generator(value: Any) -> Undo | None:
    if isinstance(value, torch.Generator):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return functools.partial(value.setstate, value.getstate())
    if isinstance(value, np.random.RandomState):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        value = value.bit_generator
    if isinstance(value, np.random.BitGenerator):
        return functools.partial(setattr, value, "state", value.state)
    return None


def _undo_of_file(file: io.IOBase) -> Undo | None:
    """Of a file in memory all is put back, of others the place, and the length where nobody else
    can have written.
    """
    if isinstance(file, (io.StringIO, io.BytesIO)) and not file.closed:
        return functools.partial(file.__setstate__, file.__getstate__())  # type: ignore[union-attr]
    with suppress(OSError, ValueError):  # a pipe, or closed
        if file.writable():
            file.flush()
        place, length = file.tell(), os.fstat(file.fileno()).st_size
        return functools.partial(_restore_file, file, place, length)
    return None


def _restore_file(file: io.IOBase, place: int, length: int) -> None:
    with suppress(OSError, ValueError):
        if file.writable():
            before = os.fstat(file.fileno()).st_size
            file.flush()
            if os.fstat(file.fileno()).st_size > length and _is_alone(file, before == length):
                os.ftruncate(file.fileno(), length)
        file.seek(place)


def _is_alone(file: io.IOBase, was_buffered: bool) -> bool:
    """Whether a file can have grown by this handle's writes alone.

    So it is with what was in its buffer, and with a handle at the end that has come there neither
    by reading nor, as one that appends, past what others wrote.
    """
    if was_buffered:
        return True
    mode = str(getattr(file, "mode", "a"))
    return not {"a", "+"} & set(mode) and file.tell() == os.fstat(file.fileno()).st_size


def _restore_array(current: Any, before: Any) -> None:
    if current.flags.writeable and current.tobytes() != before.tobytes():
        current[...] = before


def _restore_items(current: Any, before: Any) -> None:
    if current != before:
        current[:] = before


def own_methods(value: dict[Any, Any]) -> type[dict[Any, Any]]:
    """The class of Python whose methods do not depend on what a class of somebody made of them."""
    return OrderedDict if isinstance(value, OrderedDict) else dict


def restore_dict(current: dict[Any, Any], before: dict[Any, Any]) -> None:
    """Gives a dictionary the items of `before`, in their order, if it has others."""
    own = own_methods(current)
    same = len(current) == len(before) and all(map(is_, own.keys(current), before))
    if not (same and all(map(is_, own.values(current), before.values()))):
        own.clear(current)
        for key, item in before.items():
            own.__setitem__(current, key, item)


def restore_list(current: list[Any] | deque[Any], before: list[Any]) -> None:
    """Gives a list the items of `before`, if it has others."""
    own: Any = list if isinstance(current, list) else deque
    now = list(own.__iter__(current))
    if len(now) != len(before) or not all(map(is_, now, before)):
        own.clear(current)
        own.extend(current, before)


def restore_set(current: set[Any], before: set[Any]) -> None:
    """Gives a set the items of `before`, if it has others."""
    if current != before:
        current.clear()
        current.update(before)


def set_arguments(function: functools.partial[Any], arguments: tuple[Any, ...]) -> None:
    """Gives a partial function other positional arguments."""
    function.__setstate__((function.func, arguments, function.keywords, function.__dict__))  # type: ignore[attr-defined]


def forget(cache: Any, before: Any) -> None:
    """Empties a cache of a function that took up anything since its `cache_info` was `before`."""
    if cache.cache_info().misses != before.misses:
        cache.cache_clear()
