"""Files that are either whole or absent."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from ghn.errors import ConfigError, DamagedFileError

if TYPE_CHECKING:
    from torch import Tensor


_TEMPORARY = ".tmp-"


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary sibling of `path` to write to; on success it is flushed to disk and
    renamed to `path`.

    On any exception, `KeyboardInterrupt` included, the temporary file is removed and `path` is left
    as it was. The temporary name keeps the suffixes of `path` (writers that look at them behave)
    and is unique, so two writers at once leave one whole file. A new file gets the permissions that
    `open` would give it, whatever the writer asked for. A link is replaced, not what it leads to,
    which may be the cache of a data store.

    Raises:
        ConfigError: `path` is a directory, a device or a pipe, which renaming would replace.
        OSError: it cannot be written (a full disk, a read-only directory), whatever the writer's
            library calls that; has the name of `path`.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is no regular file and would be replaced by one; name another")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{uuid4().hex[:8]}-{path.name}")
    try:
        with writing(path, temporary):
            temporary.touch()
            permissions = temporary.stat().st_mode
            temporary.unlink()
            yield temporary
            temporary.chmod(permissions)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_directory(path: Path) -> None:
    """Refuses to write `path` where there is no directory for it, before anything is computed.

    Raises:
        ConfigError: names the directory.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the directory {path.parent} does not exist; make it first")


def remove_leftovers(*paths: Path) -> None:
    """Removes what writers that were killed left behind (`atomic_path`): of the files at `paths`,
    and of all that lie below those that are directories.

    Only for whoever keeps other writers out.
    """
    for path in paths:
        beside = path.parent.glob(f"{_TEMPORARY}*-{glob.escape(path.name)}")
        for leftover in (*beside, *path.rglob(f"{_TEMPORARY}*")):
            leftover.unlink(missing_ok=True)


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a write says that the file system cannot take."""


@contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turns what libraries say of a failed write into an OSError that names `path`.

    Python, Arrow and HDF5 name no file then, safetensors and PyTorch raise errors of their own, and
    what is written may have a `temporary` name. Errors of other files are left as they are.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        yield
    except Exception as error:
        code = _write_error(error, str(path if temporary is None else temporary))
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def _write_error(error: BaseException | None, written: str) -> int | None:
    """The number of the failed write that `error` tells of, or that it came from."""
    while error is not None:
        if isinstance(error, OSError):
            if error.filename is None and error.errno in _NO_ROOM:
                return error.errno
            if str(error.filename) == written:
                return error.errno
        elif match := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors
            return int(match[1])
        error = error.__cause__ or error.__context__
    return None


_SETTLED_NS = 100_000_000
"""Age from which on a file that is written again gets another time, whatever clock its file system
has.
"""


def file_stamp(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """What is another whenever a file's content is, for what a process remembers of it.

    It has the time of the last change of the file's entry, which nobody can set, unlike that of its
    content. Just after a change every call gives another stamp: the next change may have the same
    time.

    Raises:
        OSError: there is no such file.
    """
    status = Path(path).stat()
    changed, now = max(status.st_mtime_ns, status.st_ctime_ns), time.time_ns()
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        time.monotonic_ns() if now - changed < _SETTLED_NS else 0,
    )


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(tensors: Mapping[str, Tensor], note: str) -> str:
    """The SHA-256 of named tensors (on the CPU, contiguous) and of a text, in hexadecimal."""
    import torch

    digest = hashlib.sha256(note.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and its metadata.

    Raises:
        DamagedFileError: the file is cut, no safetensors file, or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise DamagedFileError(f"{path} cannot be read as safetensors: {error}") from error


def sort_metadata(path: str | os.PathLike[str]) -> None:
    """Sorts the metadata of a safetensors file by name, in place, so that equal content is equal
    bytes.

    The library keeps metadata in a hash map, and several entries come out in another order each
    time.
    """
    with open(path, "rb+") as file:
        n = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(n))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(n))
