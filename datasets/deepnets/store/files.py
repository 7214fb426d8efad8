"""The files of a split: their names, and errors that name them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from ghn.errors import DamagedFileError, GHNError


def paths_of(directory: Path, split: str) -> tuple[Path, Path]:
    """The two files of a split."""
    return directory / f"{split}.h5", directory / f"{split}.parquet"


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
