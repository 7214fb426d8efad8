"""The file of an image split: safetensors whose every byte is covered by a digest in it.

The digest (`seal`, in the metadata) is the SHA-256 of the file with the digest itself written as
zeros. A flipped bit in pixels, labels, moments, class names or the header is found on opening.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ghn.errors import DamagedFileError, UnsupportedFormatError
from ghn.files import atomic_path, sort_metadata

FORMAT = "ghn-images-2"

_NO_SEAL = "0" * 64
_SEAL = re.compile(rb'"seal":"([0-9a-f]{64})"')
_WAY_OUT = "delete it and build it again (the images stage does)"


def write_images(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], about: Mapping[str, str]
) -> None:
    """Writes tensors and metadata, whole or not at all; equal arguments give equal bytes.

    Raises:
        OSError: the file cannot be written (full disk, read-only directory); has its name.
    """
    with atomic_path(path) as temporary:
        metadata = {**about, "format": FORMAT, "seal": _NO_SEAL}
        save_file(dict(tensors), temporary, metadata=metadata)
        sort_metadata(temporary)
        with open(temporary, "rb+") as file:
            begin, digest = _seal(temporary)
            file.seek(begin)
            file.write(digest.encode())


def read_images(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata that `write_images` wrote.

    Raises:
        DamagedFileError: the file is truncated, or any bit of it is not as it was written.
        UnsupportedFormatError: the file is something else, or of another version.
        FileNotFoundError: there is no such file.
    """
    metadata = _read_metadata(path)
    whole = _seal(path)[1] == metadata.get("seal")
    if metadata.get("format") != FORMAT and (whole or "seal" not in metadata):
        raise UnsupportedFormatError(
            f"{path}: format {metadata.get('format')!r}, this program reads {FORMAT!r}; {_WAY_OUT}"
        )
    if not whole:
        raise DamagedFileError(f"{path}: its content does not match its digest; {_WAY_OUT}")
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118


def is_current(path: str | os.PathLike[str], key: Mapping[str, str | None]) -> bool:
    """Whether there is a file with all entries of `key` in its metadata, and none where `key` says
    None. The rest of the file is not read.
    """
    try:
        metadata = _read_metadata(path)
    except (FileNotFoundError, DamagedFileError):
        return False
    wanted = {**key, "format": FORMAT}
    return all(metadata.get(field) == value for field, value in wanted.items())


def _read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    if not Path(path).is_file():
        raise FileNotFoundError(
            errno.ENOENT, "it does not exist; run the images stage first", str(path)
        )
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedFileError(f"{path}: {error}; {_WAY_OUT}") from error


def _seal(path: str | os.PathLike[str]) -> tuple[int, str]:
    """Where the digest stands in the file, and what it must be (nothing if there is no place)."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        header = file.read(min(int.from_bytes(file.read(8), "little"), 2**27))
        if (match := _SEAL.search(header)) is None:
            return -1, ""
        begin = 8 + match.start(1)
        file.seek(0)
        sha.update(file.read(begin))
        sha.update(_NO_SEAL.encode())
        file.seek(len(_NO_SEAL), os.SEEK_CUR)
        while block := file.read(2**20):
            sha.update(block)
    return begin, sha.hexdigest()
