"""Images in Parquet files in the Hugging Face layout."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from datasets.images.pixels import decode
from datasets.images.sources.digest import content_digest
from datasets.images.sources.labels import check_labels, numbered
from datasets.images.sources.table import Reader
from ghn.errors import ConfigError, DamagedFileError, UnsupportedFormatError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ParquetTable:
    """Files with `image: struct<bytes, path>` (or plain bytes) and `label: int64`; blocks are row
    groups.

    Attributes:
        paths: in the order of their rows.
        classes: the name of each label.
    """

    paths: Sequence[Path]
    classes: Sequence[str]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels."""
        return np.concatenate([_labels(path, len(self.classes)) for path in self.paths])

    @property
    def files(self) -> Sequence[Path]:
        """The Parquet files."""
        return self.paths

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the files and of the class names that another split may have given."""
        return content_digest([(str(k), path) for k, path in enumerate(self.paths)], self.classes)

    @cached_property
    def blocks(self) -> Sequence[tuple[int, int]]:
        """Row groups."""
        ends = np.cumsum([footer.row_group(group).num_rows for _, footer, group in self._groups])
        return list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))

    @cached_property
    def _groups(self) -> list[tuple[Path, pq.FileMetaData, int]]:
        """(file, its footer, row group) of each block that has rows."""
        footers = [(path, _footer(path)) for path in self.paths]
        return [
            (path, footer, group)
            for path, footer in footers
            for group in range(footer.num_row_groups)
            if footer.row_group(group).num_rows
        ]

    def open(self, block: int) -> Reader:
        """Reads the encoded images of a row group."""
        path, footer, group = self._groups[block]
        begin = self.blocks[block][0]
        try:
            with pq.ParquetFile(path, metadata=footer) as file:
                image = file.read_row_group(group, columns=_image_columns(footer))["image"]
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error
        encoded = pc.struct_field(image, "bytes") if pa.types.is_struct(image.type) else image

        def read(row: int) -> Any:
            where = f"{path}, row {row - begin} of row group {group}"
            return decode(encoded[row - begin].as_py(), where)

        return read


def open_parquet(files: Mapping[str, Sequence[Path]]) -> dict[str, ParquetTable]:
    """A table per split, with one numbering of classes for all of them.

    Names come from a schema's metadata (`class_names`, or the `ClassLabel` feature of Hugging
    Face); where no split has any they are numbers.

    Raises:
        DamagedFileError: a file is not a whole Parquet file.
        UnsupportedFormatError: a file lacks a column, or has labels that are no class numbers.
        ConfigError: two files name the classes differently, or one split has no images.
    """
    names: dict[tuple[str, ...], Path] = {}
    for split, paths in files.items():
        for path in paths:
            _check_schema(path)
            for found in _class_names(path):
                names.setdefault(found, path)
        if not sum(_footer(path).num_rows for path in paths):
            raise ConfigError(f"{paths[0]}: split {split!r} has no images; remove it or fill it")
    if len(names) > 1:
        one, other = list(names.values())[:2]
        if one == other:
            raise ConfigError(f"{one}: class_names and huggingface name the classes differently")
        raise ConfigError(
            f"{one} and {other} name the classes differently, so that their labels mean different"
            " things; write both with the same names"
        )
    if names:
        classes = next(iter(names))
    else:
        labels = [_labels(path) for paths in files.values() for path in paths]
        classes = numbered(labels)
        if empty := len(classes) - len(np.unique(np.concatenate(labels))):
            first = next(iter(files.values()))[0]
            _log.warning("%s: %d of %d classes have no images", first, empty, len(classes))
    return {split: ParquetTable(tuple(paths), classes) for split, paths in files.items()}


def _check_schema(path: Path) -> None:
    schema = _footer(path).schema.to_arrow_schema()
    if missing := {"image", "label"} - set(schema.names):
        raise UnsupportedFormatError(
            f"{path}: lacks column {', '.join(sorted(missing))}; expected are image:"
            f" struct<bytes, path> and label: int64, found {', '.join(schema.names)}"
        )
    if twice := {name for name in ("image", "label") if schema.names.count(name) > 1}:
        raise UnsupportedFormatError(f"{path}: has column {', '.join(twice)} twice; keep one")
    kind = schema.field("image").type
    if pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else pa.null()
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UnsupportedFormatError(
            f"{path}: column image is {schema.field('image').type}, not struct<bytes, path> or"
            " binary; embed the image files"
        )


def _image_columns(footer: pq.FileMetaData) -> list[str]:
    image = footer.schema.to_arrow_schema().field("image").type
    return ["image.bytes"] if pa.types.is_struct(image) else ["image"]


def _class_names(path: Path) -> list[tuple[str, ...]]:
    """The names of classes that a schema has, by each of the ways to give them."""
    metadata = _footer(path).schema.to_arrow_schema().metadata or {}
    try:
        ours = metadata.get(b"class_names", b"").decode()
        info = json.loads(metadata.get(b"huggingface", b"{}"))
        label = info.get("info", {}).get("features", {}).get("label", {})
        theirs = label.get("names") or ()
    except (ValueError, AttributeError, TypeError) as error:
        raise _damaged(path, error) from error
    if not isinstance(theirs, (list, tuple)):
        raise UnsupportedFormatError(f"{path}: the names of the classes are no list: {theirs!r}")
    found = [["" if name is None else str(name) for name in theirs]] if theirs else []
    if ours and ours not in map(",".join, found):  # names may have commas
        found.append(ours.split(","))
    for names in found:
        if "" in names:
            raise UnsupportedFormatError(
                f"{path}: class {names.index('')} has an empty name; give every class one"
            )
    return [tuple(names) for names in found]


def _labels(path: Path, n_classes: int | None = None) -> NDArray[np.int64]:
    kind = _footer(path).schema.to_arrow_schema().field("label").type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise UnsupportedFormatError(
            f"{path}: column label is {kind}; expected is an integer, the number of the class."
            " Write strings as numbers with their names in the schema (docs/images.md)"
        )
    try:
        column = pq.read_table(path, columns=["label"])["label"]
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise UnsupportedFormatError(
            f"{path}, row {row}: label is null ({column.null_count} of {len(column)}); leave out"
            " images without a label"
        )
    return check_labels(column.to_numpy(), str(path), n_classes)


def _footer(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DamagedFileError:
    return DamagedFileError(
        f"{path}: not a whole Parquet file ({error}); copy or download it again"
    )
