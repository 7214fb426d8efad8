"""From a name and a directory to the tables of a data set's splits."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from datasets.images.sources.embedded import Digits
from datasets.images.sources.folders import (
    SUFFIXES,
    class_folders,
    has_images,
    is_class,
    open_folders,
)
from datasets.images.sources.parquet import open_parquet
from datasets.images.sources.shards import SPLIT_NAMES, by_split, split_folders
from datasets.images.sources.table import Table
from datasets.images.sources.torchvision import UNSUPPORTED, open_torchvision
from ghn.errors import ConfigError

DEFAULT_ROOT = Path("../shared/data")


class MissingImagesError(ConfigError):
    """No data set of that name is where it was looked for."""


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """`root`, or the environment's GHN_DATA_ROOT, or ../shared/data."""
    return Path(root or os.environ.get("GHN_DATA_ROOT") or DEFAULT_ROOT)


def find_source(name: str, root: str | os.PathLike[str] | None = None) -> Mapping[str, Table]:
    """The stored splits of a data set, by the first of these that exists.

    - `digits`: the 1,797 digits that scikit-learn brings along.
    - a path, or `name` below `root`: one Parquet file; a directory with one Parquet file or more
      per split (`train-00000-of-00008.parquet`, `data/test-…`); a directory with a folder per split
      and in it a folder per class; a directory with a folder per class, of which one may be called
      as a split is.
    - `<root>/<name>-<split>.parquet`, in one file or more.
    - a torchvision data set of that name (in any case), already downloaded to `root`.

    Returns:
        Split name ("train", "test", "val", or "all" where the data set is not split) to table; all
        have the same numbering of classes.

    Raises:
        MissingImagesError: nothing of that name was found; lists where it was looked for.
        ConfigError: a shard or the images of a class are missing, splits contradict each other, or
            it is unclear whether folders are splits or classes.
        DamagedFileError: a file is broken.
        UnsupportedFormatError: a file lacks a column, or has labels that are no class numbers.
    """
    if name == "digits":
        return {"all": Digits()}
    base = data_root(root)
    for path in (Path(name), base / name, base / f"{name}.parquet"):
        if path.suffix == ".parquet" and path.is_file():
            by_split([path])
            return open_parquet({"all": [path]})
        if path.is_dir() and (found := _directory(path)):
            return found
    stem = base / name
    flat = by_split(stem.parent.glob(f"{glob.escape(stem.name)}-*.parquet"), f"{stem.name}-")
    if known := {split: flat[split] for split in flat if split in SPLIT_NAMES}:
        return open_parquet(known)
    if downloaded := open_torchvision(name, base, SPLIT_NAMES):
        return downloaded
    there = [path for path in (Path(name), base / name) if path.exists()]
    for path in there:
        if path.is_dir() and has_images(path):
            raise MissingImagesError(
                f"{path} has images but no folder per class; move the images of each class into a"
                " folder with its name"
            )
    reason = UNSUPPORTED.get(name.lower())
    advice = f"; torchvision's {name} is not read: {reason}" if reason else ""
    if there:
        raise MissingImagesError(
            f"{there[0]} holds nothing that is read: neither a Parquet file nor folders of classes"
            f" with images ({', '.join(sorted(SUFFIXES))}){advice}"
        )
    raise MissingImagesError(
        f"no images named {name!r}: neither {base / name} nor {base / (name + '-train.parquet')}"
        f" exists, nor is it a torchvision data set below {base}. Set GHN_DATA_ROOT or `root` to"
        f" the directory that holds it{advice}"
    )


def source_digest(tables: Mapping[str, Table]) -> str:
    """SHA-256 of the content of all splits."""
    parts = [(split, tables[split].digest) for split in sorted(tables)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _directory(path: Path) -> Mapping[str, Table]:
    if files := [*path.glob("*.parquet"), *path.glob("data/*.parquet")]:
        return open_parquet(by_split(file for file in files if not file.name.startswith(".")))
    names = class_folders(path)
    splits = split_folders(path / name for name in names)
    others = [name for name in names if path / name not in splits.values()]
    others = [name for name in others if has_images(path / name)]
    if splits and not others:
        return open_folders(splits)
    if not all(is_class(folder) for folder in splits.values()):
        named = ", ".join(folder.name for folder in splits.values())
        raise ConfigError(
            f"{path}: {named} may be splits or classes, as {', '.join(others[:5])} beside"
            f" {'it have' if len(splits) == 1 else 'them have'} images, too; if splits, move the"
            " others elsewhere; if classes, move all of them into a folder train"
        )
    return open_folders({"all": path}) if others else {}
