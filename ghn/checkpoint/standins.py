"""What the names in a pickle stand for: functions that check their arguments, tensors and arrays.

`ghn.checkpoint.unpickler` reads pickles with these and nothing else.
"""

from __future__ import annotations

import argparse
import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ghn.errors import DamagedFileError, UntrustedPickleError


def torch_load(file: Path | BinaryIO) -> Any:
    """`torch.load` of weights, with the few types that training scripts put beside them."""
    scalar: Any = np.float64(0).__reduce__()[0]
    array: Any = np.zeros(0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in np.typecodes["All"] if kind not in "OV"]
    # NumPy 1 and 2 have the functions in modules of other names.
    old = [(f, f"numpy.core.multiarray.{f.__name__}") for f in (scalar, array)]
    new = [(f, f"numpy._core.multiarray.{f.__name__}") for f in (scalar, array)]
    known: list[Any] = [argparse.Namespace, np.dtype, np.ndarray, *dtypes, *old, *new]
    try:
        with torch.serialization.safe_globals(known):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch names what it refused in the middle of a page of advice on how to load it all the
        # same.
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UntrustedPickleError(refusal(found[1])) from None
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()[0]
        if reason.startswith("Unsupported"):
            raise UntrustedPickleError(refusal(reason)) from None
        raise DamagedFileError(reason) from error


def refusal(what: str) -> str:
    """The message about a pickle that asks for `what`."""
    return (
        f"refused: {what}. Only tensors, arrays and containers are read; convert the file where you"
        " trust it"
    )


class Stand:
    """What a name in a pickle stands for: a function that checks its arguments, and that a pickle
    cannot alter.
    """

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: Any) -> None:
        raise UntrustedPickleError(refusal(f"an assignment to {name}"))

    def __call__(self, *args: Any) -> Any:
        """Calls the function, which checks `args`."""
        return self._function(*args)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A strided view of a storage that holds all of it."""
    if not isinstance(storage, torch.storage.TypedStorage):
        raise UntrustedPickleError(refusal(f"a tensor over a {type(storage).__name__}"))
    untyped = storage._untyped_storage  # the public accessor warns of its own deprecation
    available = untyped.nbytes() // storage.dtype.itemsize
    size, stride = tuple(map(int, size)), tuple(map(int, stride))
    offset = int(offset)
    last = (
        offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if all(size)
        else offset - 1
    )
    if min((offset, *size, *stride)) < 0 or last >= available:
        raise DamagedFileError(
            f"a tensor of shape {size} reaches beyond its {available} stored numbers"
        )
    return torch.empty(0, dtype=storage.dtype).set_(untyped, offset, size, stride)


def _rebuild_parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise UntrustedPickleError(refusal(f"a parameter made of a {type(data).__name__}"))
    return data


def _storage(data: Any) -> Any:
    if not isinstance(data, bytes):
        raise UntrustedPickleError(refusal(f"a storage made of a {type(data).__name__}"))
    storage = torch_load(io.BytesIO(data))
    if not isinstance(storage, torch.storage.TypedStorage):
        raise UntrustedPickleError(refusal(f"a storage that is a {type(storage).__name__}"))
    return storage


def _dtype(kind: Any, *_: Any) -> np.dtype:
    if not isinstance(kind, str):
        raise UntrustedPickleError(refusal("an array type that is not a simple one"))
    dtype = np.dtype(kind)
    if dtype.hasobject or dtype.fields:
        raise UntrustedPickleError(refusal(f"an array of {dtype}"))
    return dtype


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, np.dtype) or not isinstance(data, (bytes, str)):
        raise UntrustedPickleError(refusal("a number of unknown type"))
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype, count=1)[0].item()


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise UntrustedPickleError(refusal("bytes in an odd encoding"))
    return text.encode("latin1")


class ArrayHeader:
    """joblib's note of an array whose bytes follow in the file
    (`joblib.numpy_pickle.NumpyArrayWrapper`).
    """

    state: dict[str, Any]

    def read(self, stream: BinaryIO) -> np.ndarray:
        """The array."""
        dtype, shape = self.state.get("dtype"), self.state.get("shape")
        if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(shape, tuple):
            raise UntrustedPickleError(refusal("an array of objects"))
        if self.state.get("numpy_array_alignment_bytes") is not None:
            stream.read(int.from_bytes(stream.read(1), "little"))
        count = math.prod(shape)
        data = bytearray(stream.read(count * dtype.itemsize))
        if len(data) != count * dtype.itemsize:
            raise DamagedFileError(f"an array of shape {shape} is cut short")
        order: Any = "F" if self.state.get("order") == "F" else "C"
        return np.frombuffer(data, dtype).reshape(shape, order=order)


_ARRAY_TYPE = "an array"  # stands for numpy.ndarray, which notes of arrays mention


class Array:
    """An array of which the type, the shape and the bytes follow as its state."""

    def built(self, state: Any) -> np.ndarray:
        """The array of a state (version, shape, type, column order, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise UntrustedPickleError(refusal("an array with an odd state"))
        _, shape, dtype, by_column, data = state
        if isinstance(data, str):  # bytes of protocol 2
            data = data.encode("latin1")
        return _frombuffer(data, dtype, shape, "F" if by_column else "C")


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    simple = isinstance(dtype, np.dtype) and not dtype.hasobject and not dtype.fields
    if not simple or not isinstance(data, (bytes, bytearray)) or not isinstance(shape, tuple):
        raise UntrustedPickleError(refusal("an array of objects"))
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise DamagedFileError(f"an array of shape {shape} is cut short")
    return np.frombuffer(bytearray(data), dtype).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(kind: Any, *_: Any) -> Array:
    if kind != _ARRAY_TYPE:
        raise UntrustedPickleError(refusal("an array of a kind of its own"))
    return Array()


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("argparse", "Namespace"): argparse.Namespace,
    ("torch", "Size"): Stand(lambda sizes=(): tuple(map(int, sizes))),
    ("torch._utils", "_rebuild_tensor_v2"): Stand(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor"): Stand(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): Stand(_rebuild_parameter),
    ("torch.storage", "_load_from_bytes"): Stand(_storage),
    ("_codecs", "encode"): Stand(_encode),
    ("__builtin__", "bytes"): Stand(lambda: b""),  # how protocol 2 writes them
    ("numpy", "dtype"): Stand(_dtype),
    ("numpy", "ndarray"): _ARRAY_TYPE,
    ("numpy.core.multiarray", "scalar"): Stand(_scalar),
    ("numpy._core.multiarray", "scalar"): Stand(_scalar),
    ("numpy.core.multiarray", "_reconstruct"): Stand(_reconstruct),
    ("numpy._core.multiarray", "_reconstruct"): Stand(_reconstruct),
    ("numpy.core.numeric", "_frombuffer"): Stand(_frombuffer),
    ("numpy._core.numeric", "_frombuffer"): Stand(_frombuffer),
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): ArrayHeader,
}
