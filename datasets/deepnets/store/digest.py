"""A digest of the whole Parquet file of a split, beside it.

Every byte that is read of the HDF5 file is under a checksum; of the Parquet file only the pages
are, and a flipped bit in its footer can rename a column or shift a value.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from datasets.deepnets.store.files import digest_path
from ghn.errors import DamagedFileError
from ghn.files import file_stamp, sha256


class Digest(BaseModel):
    """What the digest file says.

    Attributes:
        content: of the split's graphs, as in its other files: whose digest this is.
        parquet_sha256: of the Parquet file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    content: str
    parquet_sha256: str

    def write(self, path: Path) -> None:
        """Writes the file."""
        path.write_text(json.dumps(self.model_dump(), indent=1) + "\n")


def verify(parquet_path: Path, content: str) -> None:
    """Holds a Parquet file against its digest; once per process, unless the file changes.

    Splits of earlier versions have no digest, and one of another content is a leftover; neither
    says anything.

    Args:
        parquet_path: the file.
        content: what the HDF5 file says of its graphs.

    Raises:
        DamagedFileError: the Parquet file is not the one that was written, or the digest file
            cannot be read.
    """
    path = digest_path(parquet_path.parent, parquet_path.stem)
    try:
        digest = Digest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValidationError) as error:
        raise DamagedFileError(
            f"{path} cannot be read; delete it, or generate the split again"
        ) from error
    if digest.content == content and digest.parquet_sha256 != _sha256(
        parquet_path, file_stamp(parquet_path)
    ):
        raise DamagedFileError(
            f"{parquet_path}: damaged: it has not the digest that {path.name} says; generate the"
            " split again"
        )


@lru_cache(maxsize=64)
def _sha256(path: Path, _stamp: tuple[int, ...]) -> str:
    return sha256(path)
