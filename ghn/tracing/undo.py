"""What puts single values back: of tensors, arrays, generators of random numbers and files."""

from __future__ import annotations

import array
import functools
import io
import os
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

Undo = Callable[[], object]


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


def undo_of(value: Any) -> Undo | None:
    """What puts an array, a generator of random numbers or a file back; None if `value` is none."""
    if isinstance(value, np.ndarray):
        return functools.partial(_restore_array, value, value.copy())
    if isinstance(value, (bytearray, array.array)):
        return functools.partial(_restore_items, value, value[:])
    if isinstance(value, io.IOBase):
        return _undo_of_file(value)
    return _undo_of_generator(value)


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
    """Of a file in memory all is put back, of others the place."""
    if isinstance(file, (io.StringIO, io.BytesIO)) and not file.closed:
        return functools.partial(file.__setstate__, file.__getstate__())  # type: ignore[union-attr]
    with suppress(OSError, ValueError):  # a pipe, or closed
        place = file.tell()
        return lambda: file.seek(place)
    return None


def _restore_array(current: Any, before: Any) -> None:
    if current.flags.writeable and current.tobytes() != before.tobytes():
        current[...] = before


def _restore_items(current: Any, before: Any) -> None:
    if current != before:
        current[:] = before


def undo_of_process(tensors: Iterable[Tensor]) -> list[Undo]:
    """What puts back what belongs to the process: the global random states of Python, NumPy and
    PyTorch, here and on the devices of `tensors`, the default type of numbers, and the environment.
    """
    legacy = np.random.mtrand._rand  # what `np.random.rand` and the like draw from
    devices = {tensor.device for tensor in tensors} - {torch.device("cpu"), torch.device("meta")}
    return [
        functools.partial(torch.set_rng_state, torch.get_rng_state()),
        functools.partial(random.setstate, random.getstate()),
        functools.partial(legacy.set_state, legacy.get_state()),
        functools.partial(torch.set_default_dtype, torch.get_default_dtype()),
        functools.partial(_restore_environment, dict(os.environ)),
        *map(_undo_of_device, devices),
    ]


def _undo_of_device(device: torch.device) -> Undo:
    backend = torch.get_device_module(device)
    return functools.partial(backend.set_rng_state, backend.get_rng_state(device), device)


def _restore_environment(before: dict[str, str]) -> None:
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)
