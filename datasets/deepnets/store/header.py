"""What a split says about itself, the same in both of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ghn.errors import DamagedFileError, UnsupportedFormatError

FORMAT_VERSION = 1

HEADER_KEY = "deepnets"
"""Name of the header in either file."""


class Header(BaseModel):
    """What both files of a split say about it.

    Attributes:
        format: always "deepnets".
        version: of the format.
        split: name.
        origin: "generated" or "imported".
        seed: of the pipeline.
        rules: of the split (`rules.SplitRules`), as JSON.
        shard_size: architectures per shard.
        n_graphs: number of architectures.
        rejected: drawn architectures that were not taken, by reason.
        redrawn: canonical hashes of architectures that were drawn again because they belong to a
            disjoint split.
        width_factor: the split is evaluated at C times this, on 32-pixel images.
        width_factor_large: the same on larger images.
        fixes: imported splits only: graphs that were repaired, by flaw.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["deepnets"] = "deepnets"
    version: int = FORMAT_VERSION
    split: str
    origin: Literal["generated", "imported"]
    seed: int = 0
    rules: dict[str, Any] = {}
    shard_size: int = 0
    n_graphs: int = 0
    rejected: dict[str, int] = {}
    redrawn: tuple[str, ...] = ()
    width_factor: int = 1
    width_factor_large: int = 1
    fixes: dict[str, int] = {}


def parse_header(path: Path, text: str) -> Header:
    """The header that `path` holds as `text`.

    Raises:
        DamagedFileError: it is no header.
        UnsupportedFormatError: it is of a newer version.
    """
    try:
        fields = json.loads(text)
        version = int(fields["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{path}: its header cannot be read ({error})") from error
    if version > FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"{path}: format version {version}; this program reads up to {FORMAT_VERSION}: install"
            " a newer one"
        )
    try:
        return Header.model_validate(fields)
    except ValidationError as error:
        raise DamagedFileError(
            f"{path}: its header is malformed ({error.error_count()} fields)"
        ) from error
