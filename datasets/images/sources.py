"""Where encoded images come from: Parquet in the Hugging Face layout, folder trees, torchvision
data sets, digits.

A source is a table of encoded images and labels that can be read in any order, a few rows at a
time, by many workers; `find_source` turns a name and a directory into the tables of its splits.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ghn.errors import ConfigError, DamagedFileError, UnsupportedFormatError

DEFAULT_ROOT = Path("../shared/data")
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
TEST_NAMES = (
    "test",
    "val",
    "validation",
)  # in this order: ImageNet's public "val" is what one tests on


class Table(Protocol):
    """Encoded images with labels, in blocks that are cheap to read as a whole."""

    @property
    def classes(self) -> Sequence[str]:
        """The name of each label."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels."""

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Ranges [begin, end) of rows that are stored together."""

    def read(self, row: int) -> Image.Image:
        """The image of a row, decoded, RGB."""

    def fingerprint(self) -> str:
        """Changes when the data may have changed; must be cheap."""


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """`root`, or the environment's GHN_DATA_ROOT, or ../shared/data."""
    return Path(root or os.environ.get("GHN_DATA_ROOT") or DEFAULT_ROOT)


def find_source(name: str, root: str | os.PathLike[str] | None = None) -> dict[str, Table]:
    """The stored splits of a data set, by the first of these that exists.

    - `digits`: the 1,797 digits that scikit-learn brings along.
    - a path, or `name` below `root`: one Parquet file; a directory with one Parquet file or more
      per split (`train-00000-of-00008.parquet`, `data/test-…`); a directory with a folder per split
      and in it a folder per class; a directory with a folder per class.
    - `<root>/<name>-<split>.parquet`.
    - a torchvision data set of that name (in any case), already downloaded to `root`.

    Returns:
        Split name ("train", "test", "val", or "all" where the data set is not split) to table.

    Raises:
        ConfigError: nothing of that name was found; lists where it was looked for.
    """
    if name == "digits":
        return {"all": Digits()}
    base = data_root(root)
    for path in (Path(name), base / name, base / f"{name}.parquet"):
        if path.suffix == ".parquet" and path.is_file():
            return {"all": ParquetTable([path])}
        if path.is_dir() and (found := _directory(path)):
            return found
    if flat := {p.stem.removeprefix(f"{name}-"): p for p in sorted(base.glob(f"{name}-*.parquet"))}:
        return {split: ParquetTable([path]) for split, path in flat.items()}
    if found := _torchvision(name, base):
        return found
    raise ConfigError(
        f"no images named {name!r}: neither {base / name} nor {base / (name + '-train.parquet')}"
        f" exists, nor is it a torchvision data set below {base}. Set GHN_DATA_ROOT or `root` to"
        " the directory that holds it"
    )


def _directory(path: Path) -> dict[str, Table]:
    files: dict[str, list[Path]] = {}
    for file in sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")]):
        files.setdefault(file.stem.split("-")[0], []).append(file)
    if files:
        return {split: ParquetTable(parts) for split, parts in files.items()}
    folders = [child for child in sorted(path.iterdir()) if child.is_dir()]
    splits = [child for child in folders if child.name in ("train", *TEST_NAMES)]
    if splits:
        return {child.name: FolderTable(child) for child in splits}
    return {"all": FolderTable(path)} if folders else {}


@dataclass(frozen=True)
class ParquetTable:
    """Parquet files with `image: struct<bytes, path>` (or plain bytes) and `label: int64`; blocks
    are row groups.

    Opens a file anew in each worker and holds the last few row groups, so that reading in (roughly)
    stored order is sequential.
    """

    paths: Sequence[Path]

    def __post_init__(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in self.paths:
            try:
                schema = pq.read_schema(path)
            except pa.ArrowInvalid as error:
                raise DamagedFileError(f"{path}: not a whole Parquet file ({error})") from error
            if missing := {"image", "label"} - set(schema.names):
                raise UnsupportedFormatError(
                    f"{path}: lacks column {', '.join(sorted(missing))}; expected are image:"
                    f" struct<bytes, path> and label: int64, found {', '.join(schema.names)}"
                )

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels."""
        import pyarrow.parquet as pq

        parts = [pq.read_table(path, columns=["label"])["label"].to_numpy() for path in self.paths]
        return np.concatenate(parts).astype(np.int64)

    @cached_property
    def classes(self) -> Sequence[str]:
        """From the schema's metadata (`class_names`, or the Hugging Face `ClassLabel` feature),
        else numbers.
        """
        import pyarrow.parquet as pq

        metadata = pq.read_schema(self.paths[0]).metadata or {}
        if names := metadata.get(b"class_names"):
            return tuple(names.decode().split(","))
        if info := metadata.get(b"huggingface"):
            label = json.loads(info).get("info", {}).get("features", {}).get("label", {})
            if label.get("names"):
                return tuple(label["names"])
        return tuple(str(label) for label in range(int(self.labels.max()) + 1))

    @cached_property
    def _groups(self) -> list[tuple[int, int, Path, int]]:
        """(first row, end, file, row group) of each block."""
        import pyarrow.parquet as pq

        groups, row = [], 0
        for path in self.paths:
            metadata = pq.read_metadata(path)
            for group in range(metadata.num_row_groups):
                n = metadata.row_group(group).num_rows
                groups.append((row, row + n, path, group))
                row += n
        return groups

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.array([group[0] for group in self._groups])

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Row groups."""
        return [(begin, end) for begin, end, _, _ in self._groups]

    def read(self, row: int) -> Image.Image:
        """The decoded image of a row."""
        begin, _, path, group = self._groups[
            int(np.searchsorted(self._starts, row, side="right")) - 1
        ]
        return _decode(
            _row_group(str(path), path.stat().st_mtime_ns, group)[row - begin],
            f"{path}, row {row - begin} of row group {group}",
        )

    def fingerprint(self) -> str:
        """Of names, sizes and footers (which hold the statistics of every column)."""
        import pyarrow.parquet as pq

        parts = [
            (path.name, path.stat().st_size, str(pq.read_metadata(path).to_dict()))
            for path in self.paths
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()


@lru_cache(maxsize=8)
def _row_group(path: str, _modified_ns: int, group: int) -> list[bytes]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    image = pq.ParquetFile(path).read_row_group(group, columns=["image"])["image"]
    encoded: list[bytes] = (
        pc.struct_field(image, "bytes") if pa.types.is_struct(image.type) else image
    ).to_pylist()
    return encoded


@dataclass(frozen=True)
class FolderTable:
    """A folder per class with image files in it (at any depth); blocks are classes' runs of 256
    files.
    """

    path: Path

    @cached_property
    def classes(self) -> Sequence[str]:
        """Names of the folders, sorted."""
        return tuple(sorted(child.name for child in self.path.iterdir() if child.is_dir()))

    @cached_property
    def _files(self) -> list[tuple[str, int]]:
        files = [
            (str(file), label)
            for label, name in enumerate(self.classes)
            for file in sorted((self.path / name).rglob("*"))
            if file.suffix.lower() in IMAGE_SUFFIXES
        ]
        if not files:
            raise ConfigError(
                f"{self.path}: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) in its folders"
            )
        return files

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels."""
        return np.array([label for _, label in self._files], dtype=np.int64)

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Single files: there is nothing to gain from reading neighbours together."""
        return [(row, row + 1) for row in range(len(self._files))]

    def read(self, row: int) -> Image.Image:
        """The decoded image of a row."""
        path = self._files[row][0]
        return _decode(Path(path).read_bytes(), path)

    def fingerprint(self) -> str:
        """Of paths and sizes."""
        sha = hashlib.sha256()
        for path, _ in self._files:
            sha.update(
                f"{Path(path).relative_to(self.path)} {Path(path).stat().st_size}\n".encode()
            )
        return sha.hexdigest()


@dataclass(frozen=True)
class Digits:
    """The digits of scikit-learn: 1,797 images of 8 x 8 pixels, 17 grey levels, 10 classes; no
    file, no network.
    """

    @cached_property
    def _data(self) -> Any:
        from sklearn.datasets import load_digits

        return load_digits()

    @cached_property
    def classes(self) -> Sequence[str]:
        """ "0" to "9"."""
        return tuple("0123456789")

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(1797,) labels."""
        return np.asarray(self._data.target, dtype=np.int64)

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """All at once."""
        return [(0, len(self.labels))]

    def read(self, row: int) -> Image.Image:
        """The image of a row, grey levels stretched to 0..255, RGB."""
        pixels = np.rint(self._data.images[row] * (255 / 16)).astype(np.uint8)
        return Image.fromarray(pixels).convert("RGB")

    def fingerprint(self) -> str:
        """Constant: the data is part of a library."""
        return "sklearn-digits-1797"


@dataclass(frozen=True)
class TorchvisionTable:
    """A downloaded torchvision classification data set."""

    dataset: Any
    name: str

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels."""
        for attribute in ("targets", "labels", "_labels"):
            if (labels := getattr(self.dataset, attribute, None)) is not None:
                return np.asarray(labels, dtype=np.int64)
        return np.array([self.dataset[row][1] for row in range(len(self.dataset))], dtype=np.int64)

    @cached_property
    def classes(self) -> Sequence[str]:
        """Names as the data set gives them, else numbers."""
        names = getattr(self.dataset, "classes", None)
        return (
            tuple(names)
            if names
            else tuple(str(label) for label in range(int(self.labels.max()) + 1))
        )

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Single images."""
        return [(row, row + 1) for row in range(len(self.dataset))]

    def read(self, row: int) -> Image.Image:
        """The decoded image of a row."""
        image: Image.Image = self.dataset[row][0]
        return image.convert("RGB")

    def fingerprint(self) -> str:
        """Of name and labels: torchvision itself checks the files."""
        return hashlib.sha256(self.name.encode() + self.labels.tobytes()).hexdigest()


def _torchvision(name: str, root: Path) -> dict[str, Table]:
    import torchvision.datasets as tv

    known = {
        key.lower(): key
        for key in tv.__all__
        if key not in ("ImageFolder", "DatasetFolder", "FakeData")
    }
    if name.lower() not in known:
        return {}
    cls = getattr(tv, known[name.lower()])
    keyword = "train" if "train" in inspect.signature(cls).parameters else "split"
    options: dict[str, Any] = (
        {"train": True, "test": False}
        if keyword == "train"
        else {s: s for s in ("train", *TEST_NAMES)}
    )
    found: dict[str, Table] = {}
    for split, value in options.items():
        try:
            found[split] = TorchvisionTable(cls(root, **{keyword: value}), f"{name}/{split}")
        except (
            RuntimeError,
            ValueError,
            TypeError,
            FileNotFoundError,
        ):  # not downloaded, or has no such split
            continue
    return found


def _decode(encoded: bytes, where: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded)).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise DamagedFileError(f"{where}: not a readable image ({error})") from error
