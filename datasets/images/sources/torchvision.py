"""Data sets that torchvision has downloaded."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.images.pixels import to_rgb
from datasets.images.sources.digest import content_digest
from datasets.images.sources.labels import check_labels, numbered
from datasets.images.sources.table import Reader
from ghn.errors import ConfigError, DamagedFileError, GHNError

_NO_DATA_SETS = ("ImageFolder", "DatasetFolder", "FakeData")

_NO_SUCH_SPLIT = re.compile(r"Unknown value|Split ")
_ABSENT = re.compile(r"not found|not present|does not exist")
"""What torchvision says where a data set is not downloaded; of some, where it is damaged, too."""

UNSUPPORTED = {
    "emnist": "it is six data sets in one; write the one you mean as folders or Parquet files",
    "semeion": "it has no splits; write it as folders or Parquet files",
}
"""Data sets of torchvision that cannot be told by a name and a split."""


@dataclass(frozen=True)
class TorchvisionTable:
    """A split of a torchvision classification data set; blocks are single images.

    Attributes:
        dataset: of torchvision.
        name: for messages.
        root: the directory it was downloaded to.
        classes: the name of each label.
    """

    dataset: Any
    name: str
    root: Path
    classes: Sequence[str]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels."""
        labels = check_labels(_labels(self.dataset), self.name, len(self.classes))
        if len(labels) != len(self.dataset):
            raise DamagedFileError(
                f"{self.name} below {self.root}: {len(self.dataset)} images and {len(labels)}"
                " labels; download it again"
            )
        return labels

    @cached_property
    def blocks(self) -> Sequence[tuple[int, int]]:
        """Single images."""
        return [(row, row + 1) for row in range(len(self.dataset))]

    @cached_property
    def files(self) -> Sequence[Path]:
        """Everything below `root` that the data set's attributes name; torchvision has no list."""
        named = {path for path in _paths(self.dataset) if self.root in path.parents}
        named |= {p for p in self.root.iterdir() if p.stem.lower() == self.name.split("/")[0]}
        files = {
            file
            for path in named
            for file in ([path] if path.is_file() else path.rglob("*"))
            if file.is_file()
        }
        if not files:
            raise ConfigError(f"{self.name}: which files below {self.root} it reads is unknown")
        return sorted(files)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the files, of the split's name and of the classes."""
        files = [(path.relative_to(self.root).as_posix(), path) for path in self.files]
        return content_digest(files, [self.name, *self.classes])

    def open(self, block: int) -> Reader:
        """The image is read when it is decoded."""

        def read(row: int) -> Any:
            where = f"{self.name} below {self.root}, image {row}"
            try:
                return to_rgb(self.dataset[row][0], where)
            except GHNError:
                raise
            except Exception as error:  # Pillow's parsers raise anything
                raise DamagedFileError(f"{where}: {error}; download it again") from error

        return read


def open_torchvision(
    name: str, root: Path, splits: Mapping[str, str]
) -> dict[str, TorchvisionTable]:
    """The splits that are below `root`, if torchvision has a data set `name` (in any case).

    Args:
        name: of the data set.
        root: the directory that it was downloaded to.
        splits: from names that torchvision may have for them to ours.

    Raises:
        ConfigError: the splits name the classes differently.
        DamagedFileError: it was downloaded, but is not whole.
        UnsupportedFormatError: its labels are no class numbers.
    """
    import torchvision.datasets as tv

    known = {key.lower(): key for key in tv.__all__ if key not in _NO_DATA_SETS}
    if name.lower() not in known:
        return {}
    cls = getattr(tv, known[name.lower()])
    by_flag = "train" in inspect.signature(cls).parameters
    # of some the published training split is called trainval; others have train besides, and val
    by_name = {**splits, "trainval": "train"}
    options: dict[Any, str] = {True: "train", False: "test"} if by_flag else by_name
    found: dict[str, Any] = {}
    absent: Exception | None = None
    for value, split in options.items():
        if split in found:
            continue
        try:
            found[split] = cls(root, **{"train" if by_flag else "split": value})
        except (TypeError, FileNotFoundError):
            continue  # it has no splits, or is not downloaded
        except Exception as error:  # its parsers raise anything
            if _ABSENT.search(str(error)):
                absent = error
            elif not _NO_SUCH_SPLIT.match(str(error)):
                raise _damaged(f"{name} below {root}, {split}", error) from error
    if not found:
        if absent is not None and (place := _downloaded(cls, root)) is not None:
            raise _damaged(str(place), absent) from absent
        return {}
    classes = _classes(name, found)
    where = root.absolute()
    return {
        split: TorchvisionTable(dataset, f"{name.lower()}/{split}", where, classes)
        for split, dataset in found.items()
    }


def _downloaded(cls: Any, root: Path) -> Path | None:
    """The directory that a download has made, as far as the class of the data set tells it."""
    of_class = getattr(cls, "base_folder", None)
    places = (root / of_class if isinstance(of_class, str) else None, root / cls.__name__ / "raw")
    return next((path for path in places if path is not None and path.is_dir()), None)


def _damaged(where: str, error: Exception) -> DamagedFileError:
    said = str(error) or type(error).__name__
    return DamagedFileError(f"{where}: torchvision cannot read it ({said}); download it again")


def _classes(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    names = {tuple(map(str, getattr(dataset, "classes", None) or ())) for dataset in found.values()}
    if len(names) > 1:
        raise ConfigError(f"{name}: its splits name the classes differently")
    return next(iter(names)) or numbered(
        [check_labels(_labels(dataset), f"{name}/{split}") for split, dataset in found.items()]
    )


def _labels(dataset: Any) -> Any:
    for attribute in ("targets", "labels", "_labels"):
        if (labels := getattr(dataset, attribute, None)) is not None:
            return labels
    return [dataset[row][1] for row in range(len(dataset))]


def _paths(dataset: Any) -> Iterator[Path]:
    """Existing paths among the attributes, relative ones below the data set's root."""
    for attribute in dir(dataset):
        with warnings.catch_warnings(), suppress(Exception):  # properties run code of all kinds
            warnings.simplefilter("ignore")
            value = None if attribute.startswith("__") else getattr(dataset, attribute)
            if isinstance(value, (str, Path)) and len(str(value)) < 1024:
                path = Path(dataset.root, value).absolute()
                if path.exists():
                    yield path
