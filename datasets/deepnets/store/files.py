"""The files of a split: their names, who writes them, and errors that name them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa

from ghn.errors import DamagedFileError, GHNError
from ghn.locks import held


def paths_of(directory: Path, split: str) -> tuple[Path, Path]:
    """The two files that hold a split."""
    return directory / f"{split}.h5", directory / f"{split}.parquet"


def digest_path(directory: Path, split: str) -> Path:
    """The file that vouches for the Parquet file, whose footer has no checksum (`digest`)."""
    return directory / f"{split}.digest.json"


def files_of(directory: Path, split: str) -> tuple[Path, ...]:
    """All files of a split: what depends on the split depends on these."""
    return (*paths_of(directory, split), digest_path(directory, split))


@contextmanager
def only_writer(path: Path, busy: str) -> Iterator[None]:
    """Keeps a second writer out.

    Args:
        path: the lock's file; removed afterwards.
        busy: what to say where another process holds the lock.

    Raises:
        GHNError: another process holds it, or its file cannot be made.
    """
    with ExitStack() as lock:
        with writing(path):
            lock.enter_context(held(path, GHNError(f"{path}: {busy}; wait for it or stop it")))
        yield


def only_writer_of(directory: Path, split: str) -> AbstractContextManager[None]:
    """Keeps a second writer of a split out; as `only_writer`."""
    return only_writer(
        directory / f".{split}.lock", f"another process is writing split {split!r} in {directory}"
    )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a failure to write (a full disk) into an error that names the file.

    Raises:
        GHNError: instead of an `OSError`.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # h5py reports some failed writes as RuntimeError
        raise GHNError(
            f"{path}: could not be written ({error}); what was there before is untouched"
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns a failure to read into an error that names the file.

    Raises:
        DamagedFileError: instead of what the libraries raise.
    """
    try:
        yield
    except GHNError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, pa.ArrowException) as error:
        detail = " ".join(str(error).split())
        raise DamagedFileError(
            f"{path}: damaged, truncated or not of our format ({detail})"
        ) from error
