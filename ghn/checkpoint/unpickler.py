"""Reading pickles without trusting them: tensors, arrays and containers come out, anything else is
refused.

Released hypernetworks are pickles: zip files or streams of `torch.save`, or files of `joblib.dump`,
often compressed.
The first two go to `torch.load(weights_only=True)`. For joblib, whose own reader runs whatever a
file asks for, this module has an unpickler that knows a dozen names. A pickle cannot get at
anything else: every name it mentions goes through `find_class`, and what that returns are stand-ins
that check their arguments.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import lzma
import math
import os
import pickle
import re
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ghn.errors import DamagedFileError, UntrustedPickleError

_ZIP = b"PK\x03\x04"
_LEGACY_TORCH = (  # protocol 2, then the magic number of torch.save
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
)


def load_untrusted(path: str | os.PathLike[str]) -> Any:
    """The contents of a file of `torch.save`, `joblib.dump` or `pickle.dump`.

    Tensors come as tensors on the CPU, arrays as arrays, an `argparse.Namespace` as a dictionary.

    Raises:
        UntrustedPickleError: the file asks for something other than tensors, arrays and containers.
        DamagedFileError: the file is truncated or no pickle at all.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(len(_LEGACY_TORCH))
    try:
        if head.startswith(_ZIP) or head == _LEGACY_TORCH:
            return plain(_torch_load(path))
        with _decompressed(path) as stream:
            return plain(_Unpickler(stream).load())
    except (UntrustedPickleError, DamagedFileError) as error:
        raise type(error)(f"{path}: {error}") from None
    except (
        pickle.UnpicklingError,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        EOFError,
        OSError,
        RuntimeError,
    ) as error:
        raise DamagedFileError(f"{path} cannot be read as a checkpoint: {error}") from error
    except (
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        AttributeError,
        UnicodeDecodeError,
        OverflowError,
    ) as error:
        raise DamagedFileError(f"{path} is not a pickle, or a damaged one: {error}") from error


def plain(value: Any) -> Any:
    """`value` with every `argparse.Namespace` turned into a dictionary."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    return value


def _torch_load(file: Path | BinaryIO) -> Any:
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
            raise UntrustedPickleError(_refusal(found[1])) from None
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()[0]
        if reason.startswith("Unsupported"):
            raise UntrustedPickleError(_refusal(reason)) from None
        raise DamagedFileError(reason) from error


def _refusal(what: str) -> str:
    return (
        f"refused: {what}. Only tensors, arrays and containers are read; convert the file where you"
        " trust it"
    )


def _decompressed(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        head = file.read(6)
    openers: list[tuple[bytes, Callable[..., Any]]] = [
        (b"\x1f\x8b", gzip.open),
        (b"BZh", bz2.open),
        (b"\xfd7zXZ", lzma.open),
        (b"\x5d\x00\x00", lzma.open),
    ]
    for magic, opener in openers:
        if head.startswith(magic):
            return opener(path, "rb")  # type: ignore[no-any-return]
    if head[:1] == b"\x78" and head[1:2] in b"\x01\x5e\x9c\xda":
        return io.BytesIO(zlib.decompress(path.read_bytes()))
    return path.open("rb")


class _Callable:
    """What a name in a pickle stands for: a function that checks its arguments, and that a pickle
    cannot alter.
    """

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: Any) -> None:
        raise UntrustedPickleError(_refusal(f"an assignment to {name}"))

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A strided view of a storage that holds all of it."""
    if not isinstance(storage, torch.storage.TypedStorage):
        raise UntrustedPickleError(_refusal(f"a tensor over a {type(storage).__name__}"))
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
        raise UntrustedPickleError(_refusal(f"a parameter made of a {type(data).__name__}"))
    return data


def _storage(data: Any) -> Any:
    if not isinstance(data, bytes):
        raise UntrustedPickleError(_refusal(f"a storage made of a {type(data).__name__}"))
    storage = _torch_load(io.BytesIO(data))
    if not isinstance(storage, torch.storage.TypedStorage):
        raise UntrustedPickleError(_refusal(f"a storage that is a {type(storage).__name__}"))
    return storage


def _dtype(kind: Any, *_: Any) -> np.dtype:
    if not isinstance(kind, str):
        raise UntrustedPickleError(_refusal("an array type that is not a simple one"))
    dtype = np.dtype(kind)
    if dtype.hasobject or dtype.fields:
        raise UntrustedPickleError(_refusal(f"an array of {dtype}"))
    return dtype


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, np.dtype) or not isinstance(data, (bytes, str)):
        raise UntrustedPickleError(_refusal("a number of unknown type"))
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype, count=1)[0].item()


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise UntrustedPickleError(_refusal("bytes in an odd encoding"))
    return text.encode("latin1")


class _ArrayHeader:
    """joblib's note of an array whose bytes follow in the file
    (`joblib.numpy_pickle.NumpyArrayWrapper`).
    """

    state: dict[str, Any]

    def read(self, stream: BinaryIO) -> np.ndarray:
        """The array."""
        dtype, shape = self.state.get("dtype"), self.state.get("shape")
        if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(shape, tuple):
            raise UntrustedPickleError(_refusal("an array of objects"))
        if self.state.get("numpy_array_alignment_bytes") is not None:
            stream.read(int.from_bytes(stream.read(1), "little"))
        count = math.prod(shape)
        data = bytearray(stream.read(count * dtype.itemsize))
        if len(data) != count * dtype.itemsize:
            raise DamagedFileError(f"an array of shape {shape} is cut short")
        order: Any = "F" if self.state.get("order") == "F" else "C"
        return np.frombuffer(data, dtype).reshape(shape, order=order)


_ARRAY_TYPE = "an array"  # stands for numpy.ndarray, which notes of arrays mention


class _Array:
    """An array of which the type, the shape and the bytes follow as its state."""

    def built(self, state: Any) -> np.ndarray:
        """The array of a state (version, shape, type, column order, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise UntrustedPickleError(_refusal("an array with an odd state"))
        _, shape, dtype, by_column, data = state
        if isinstance(data, str):  # bytes of protocol 2
            data = data.encode("latin1")
        return _frombuffer(data, dtype, shape, "F" if by_column else "C")


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    simple = isinstance(dtype, np.dtype) and not dtype.hasobject and not dtype.fields
    if not simple or not isinstance(data, (bytes, bytearray)) or not isinstance(shape, tuple):
        raise UntrustedPickleError(_refusal("an array of objects"))
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise DamagedFileError(f"an array of shape {shape} is cut short")
    return np.frombuffer(bytearray(data), dtype).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind != _ARRAY_TYPE:
        raise UntrustedPickleError(_refusal("an array of a kind of its own"))
    return _Array()


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("argparse", "Namespace"): argparse.Namespace,
    ("torch", "Size"): _Callable(lambda sizes=(): tuple(map(int, sizes))),
    ("torch._utils", "_rebuild_tensor_v2"): _Callable(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor"): _Callable(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Callable(_rebuild_parameter),
    ("torch.storage", "_load_from_bytes"): _Callable(_storage),
    ("_codecs", "encode"): _Callable(_encode),
    ("__builtin__", "bytes"): _Callable(lambda: b""),  # how protocol 2 writes them
    ("numpy", "dtype"): _Callable(_dtype),
    ("numpy", "ndarray"): _ARRAY_TYPE,
    ("numpy.core.multiarray", "scalar"): _Callable(_scalar),
    ("numpy._core.multiarray", "scalar"): _Callable(_scalar),
    ("numpy.core.multiarray", "_reconstruct"): _Callable(_reconstruct),
    ("numpy._core.multiarray", "_reconstruct"): _Callable(_reconstruct),
    ("numpy.core.numeric", "_frombuffer"): _Callable(_frombuffer),
    ("numpy._core.numeric", "_frombuffer"): _Callable(_frombuffer),
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _ArrayHeader,
}


# The pure-Python unpickler: joblib's array bytes stand in the middle of the pickle, right after
# their note is built.
_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):  # type: ignore[misc]
    dispatch = _PythonUnpickler.dispatch.copy()

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self._stream = stream

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise UntrustedPickleError(_refusal(f"{module}.{name}"))
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise UntrustedPickleError(_refusal("a reference to something outside the file"))

    def load_reduce(self) -> None:
        """Calls only what `find_class` gave out."""
        function = self.stack[-2]
        if not (
            isinstance(function, _Callable)
            or function is OrderedDict
            or function is argparse.Namespace
        ):
            raise UntrustedPickleError(_refusal(f"a call of {function!r}"))
        super().load_reduce()

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_build(self) -> None:
        """Sets the state of the few things that have one."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _ArrayHeader) and isinstance(state, dict):
            target.state = state
            self.stack[-1] = target.read(self._stream)
        elif isinstance(target, _Array):
            self.stack[-1] = target.built(state)
            self._memo_again(target, self.stack[-1])
        elif isinstance(target, argparse.Namespace) and isinstance(state, dict):
            vars(target).update({str(key): value for key, value in state.items()})
        elif isinstance(target, np.dtype):
            # (version, byte order, ...): only a foreign byte order matters.
            if (
                not isinstance(state, tuple)
                or len(state) < 2
                or state[1] not in ("<", ">", "|", "=")
            ):
                raise UntrustedPickleError(_refusal("an array type with an odd state"))
            self.stack[-1] = target.newbyteorder(state[1])
            self._memo_again(target, self.stack[-1])
        elif not isinstance(
            target, OrderedDict
        ):  # that of a state dict, `_metadata`, is not needed
            raise UntrustedPickleError(_refusal(f"an alteration of a {type(target).__name__}"))

    dispatch[pickle.BUILD[0]] = load_build

    def _memo_again(self, old: Any, new: Any) -> None:
        """Has later references to what was built find it, not its note."""
        for key, value in self.memo.items():
            if value is old:
                self.memo[key] = new
