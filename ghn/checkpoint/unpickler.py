"""Reading pickles without trusting them: tensors, arrays and containers come out, anything else is
refused.

Released hypernetworks are pickles: zip files or streams of `torch.save`, or files of `joblib.dump`,
often compressed. The first two go to `torch.load(weights_only=True)`. For joblib, whose own reader
runs whatever a file asks for, this module has an unpickler that knows a dozen names. A pickle
cannot get at anything else: every name it mentions goes through `find_class`, and what that returns
are stand-ins that check their arguments.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ghn.checkpoint.standins import KNOWN, Array, ArrayHeader, Stand, refusal, torch_load
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
            return plain(torch_load(path))
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
        reason = str(error) or type(error).__name__
        raise DamagedFileError(f"{path} cannot be read as a checkpoint: {reason}") from error
    except Exception as error:  # torch.load and pickle raise whatever damage leads them to
        raise DamagedFileError(f"{path} is not a pickle, or a damaged one: {error!r}") from error


def plain(value: Any) -> Any:
    """`value` with every `argparse.Namespace` turned into a dictionary."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    return value


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


# The pure-Python unpickler: joblib's array bytes stand in the middle of the pickle, right after
# their note is built.
_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):  # type: ignore[misc]
    dispatch = _PythonUnpickler.dispatch.copy()

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self._stream = stream

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise UntrustedPickleError(refusal(f"{module}.{name}"))
        return KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise UntrustedPickleError(refusal("a reference to something outside the file"))

    def load_reduce(self) -> None:
        """Calls only what `find_class` gave out."""
        function = self.stack[-2]
        if not (
            isinstance(function, Stand) or function is OrderedDict or function is argparse.Namespace
        ):
            raise UntrustedPickleError(refusal(f"a call of {function!r}"))
        super().load_reduce()

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_build(self) -> None:
        """Sets the state of the few things that have one."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, ArrayHeader) and isinstance(state, dict):
            target.state = state
            self.stack[-1] = target.read(self._stream)
        elif isinstance(target, Array):
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
                raise UntrustedPickleError(refusal("an array type with an odd state"))
            self.stack[-1] = target.newbyteorder(state[1])
            self._memo_again(target, self.stack[-1])
        elif not isinstance(target, OrderedDict):  # whose state, `_metadata`, is not needed
            raise UntrustedPickleError(refusal(f"an alteration of a {type(target).__name__}"))

    dispatch[pickle.BUILD[0]] = load_build

    def _memo_again(self, old: Any, new: Any) -> None:
        """Has later references to what was built find it, not its note."""
        for key, value in self.memo.items():
            if value is old:
                self.memo[key] = new
