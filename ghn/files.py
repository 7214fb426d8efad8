"""Files that are either whole or absent."""

from __future__ import annotations

import glob
import hashlib
import json
import os
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
        OSError: as the writer or the file system raises it (for example a full disk).
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is no regular file and would be replaced by one; name another")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{uuid4().hex[:8]}-{path.name}")
    try:
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


def remove_temporaries(*paths: Path) -> None:
    """Removes what writers that were killed left of these files, or of files below these
    directories (`atomic_path`). The caller must be the only writer of them.
    """
    for path in paths:
        beside = path.parent.glob(f"{_TEMPORARY}*-{glob.escape(path.name)}")
        for temporary in (*beside, *path.rglob(f"{_TEMPORARY}*")):
            temporary.unlink(missing_ok=True)


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
