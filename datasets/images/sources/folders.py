"""Images as files, in a folder per class."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.images.pixels import decode
from datasets.images.sources.digest import content_digest
from datasets.images.sources.table import Reader
from ghn.errors import ConfigError, DamagedFileError

SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm",
    ".tif", ".tiff",
}  # fmt: skip
_NO_CLASSES = {
    "__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information",
    "lost+found", "Thumbs.db", "desktop.ini",
}  # fmt: skip
"""What file systems, archives and tools leave."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderTable:
    """A folder per class with image files in it, at any depth; every file is a block, as there is
    nothing to gain from reading neighbours together.

    Attributes:
        path: the folder of the classes' folders.
        classes: their names; one that this split lacks has no images in it.
    """

    path: Path
    classes: Sequence[str]

    @cached_property
    def _files(self) -> list[tuple[Path, int]]:
        outside = (file for file in self.path.glob("*.*") if _is_image(file))
        found, others = [], [file for file in outside if not _hidden(Path(file.name))]
        for label, name in enumerate(self.classes):
            for file in sorted(_files_below(self.path / name)):
                if _hidden(file.relative_to(self.path)):
                    continue
                if _is_image(file):
                    found.append((file, label))
                else:
                    others.append(file)
        if not found:
            raise ConfigError(f"{self.path}: no images ({', '.join(sorted(SUFFIXES))}) in folders")
        if others:
            _log.warning("%s: %d files are not read: no class or no image by their suffix (%s)",
                         self.path, len(others), others[0].relative_to(self.path))  # fmt: skip
        return found

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels."""
        return np.array([label for _, label in self._files], dtype=np.int64)

    @property
    def files(self) -> Sequence[Path]:
        """The image files in the order of their rows."""
        return [path for path, _ in self._files]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the files with their paths below the folder, and of the classes."""
        return content_digest(
            [(path.relative_to(self.path).as_posix(), path) for path in self.files], self.classes
        )

    @cached_property
    def blocks(self) -> Sequence[tuple[int, int]]:
        """Single files."""
        return [(row, row + 1) for row in range(len(self._files))]

    def open(self, block: int) -> Reader:
        """The file is read when its image is decoded."""
        path = self._files[block][0]

        def read(_row: int) -> Any:
            try:
                return decode(path.read_bytes(), str(path))
            except OSError as error:
                raise DamagedFileError(f"{path}: cannot be read ({error})") from error

        return read


def _files_below(folder: Path) -> Iterator[Path]:
    """The files at any depth, those in folders that links lead to among them, each folder once
    and never that of all classes.

    Raises:
        DamagedFileError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):  # a class that this split lacks
            return
        raise DamagedFileError(f"{error.filename}: cannot be read ({error.strerror})") from error

    seen = {os.path.realpath(folder.parent)}  # of all classes
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if (known := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(known)
        folders.sort()
        yield from (Path(place, name) for name in names)


def class_folders(path: Path) -> tuple[str, ...]:
    """Names of the folders in `path`, sorted; not of hidden ones and those that tools leave."""
    return tuple(sorted(c.name for c in path.iterdir() if c.is_dir() and not _hidden(Path(c.name))))


def has_images(path: Path) -> bool:
    """Whether there is an image file below `path`; torchvision's own folders often have none."""
    return any(_is_image(file) for file in _files_below(path))


def is_class(path: Path) -> bool:
    """Whether there are image files in `path` itself, and none in its folders."""
    inside = any(_is_image(file) and not _hidden(Path(file.name)) for file in path.iterdir())
    return inside and not any(has_images(path / name) for name in class_folders(path))


def open_folders(splits: Mapping[str, Path]) -> dict[str, FolderTable]:
    """A table per split; classes are numbered by the folders of the training split (or of all
    splits, without one).

    Raises:
        ConfigError: another split has a class that the training split lacks, a class has no
            training images, or the classes lie one folder deeper.
    """
    found = {split: class_folders(path) for split, path in splits.items()}
    every = {name for names in found.values() for name in names}
    classes = found.get("train") or tuple(sorted(every))
    for split, names in found.items():
        if unknown := sorted(set(names) - set(classes)):
            raise ConfigError(
                f"{splits[split]} has folders that {splits['train']} lacks:"
                f" {', '.join(unknown[:5])}; every split needs the folders of the same classes"
            )
    for split, names in found.items():
        if len(classes) == 1 and names:
            _check_wrapped(splits[split] / names[0])
    tables = {split: FolderTable(path, classes) for split, path in splits.items()}
    for split, table in tables.items():
        counts = np.bincount(table.labels, minlength=len(classes))
        empty = [classes[label] for label in np.flatnonzero(counts == 0)]
        if empty and split in ("train", "all"):
            raise ConfigError(
                f"{table.path / empty[0]} has no images; remove the folder or fill it (one of"
                f" {len(empty)})"
            )
        if empty:
            _log.warning("%s has no images of %d classes (%s)", table.path, len(empty), empty[0])
    return tables


def _check_wrapped(only: Path) -> None:
    """Refuses a single class whose images lie in folders of their own: those are the classes."""
    inner = [name for name in class_folders(only) if has_images(only / name)]
    if len(inner) > 1 and not any(_is_image(file) for file in only.iterdir()):
        raise ConfigError(
            f"{only} would be the only class, but has {len(inner)} folders with images"
            f" ({', '.join(inner[:3])}); move these up, or name {only} as the data set"
        )


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part in _NO_CLASSES for part in path.parts)
