"""Which files belong to which split, and whether all of them are there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ghn.errors import ConfigError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
}
"""From the names of folders and files, in any case, to ours."""

_SHARD = re.compile(r"(?P<split>.+?)(-(?P<k>\d+)(-of-(?P<n>\d+))?)?(-[0-9a-f]{8,})?")


def by_split(files: Iterable[Path], prefix: str = "") -> dict[str, list[Path]]:
    """Files named `<prefix><split>`, `…-<k>` or `…-<k>-of-<n>` by split, shards in order. Files of
    splits that are not in `SPLIT_NAMES` keep their name and go unchecked.

    Raises:
        ConfigError: a shard is missing, or a split is there twice.
    """
    found: dict[str, list[tuple[int | None, int | None, Path]]] = {}
    for file in sorted(files):
        match = _SHARD.fullmatch(file.stem.removeprefix(prefix))
        if match is not None:
            name = match["split"]
            numbers = (int(match[group]) if match[group] else None for group in "kn")
            found.setdefault(SPLIT_NAMES.get(name.lower(), name), []).append((*numbers, file))  # type: ignore[arg-type]
    for split in found.keys() & set(SPLIT_NAMES.values()):
        _check(split, found[split])
    return {
        split: [file for _, _, file in sorted(parts, key=lambda part: (part[0] or 0, part[2]))]
        for split, parts in found.items()
    }


def split_folders(folders: Iterable[Path]) -> Mapping[str, Path]:
    """Folders that are named as splits.

    Raises:
        ConfigError: two of them mean the same split.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if (split := SPLIT_NAMES.get(folder.name.lower())) is not None:
            if split in found:
                raise ConfigError(f"{found[split]} and {folder} are the same split; keep one")
            found[split] = folder
    return found


def _check(split: str, parts: list[tuple[int | None, int | None, Path]]) -> None:
    numbers, totals = [k for k, _, _ in parts], {n for _, n, _ in parts}
    where = parts[0][2].parent
    if len(set(numbers)) < len(numbers) or len(totals) > 1 or (None in numbers and len(parts) > 1):
        names = ", ".join(str(file) for _, _, file in parts[:3])
        raise ConfigError(f"split {split!r} is there more than once ({names}); keep one")
    known = {k for k in numbers if k is not None}
    total = totals.pop()
    # Without a total the numbers say no more than where there are gaps.
    first, end = min(known, default=0), max(known, default=-1) + 1
    if total is not None:
        first, end = 0, total
    if len(known) != end - first or (known and max(known) >= end):
        missing = next((k for k in range(first, end) if k not in known), end)
        raise ConfigError(
            f"{where}: split {split!r} has {len(known)} of {end - first} shards, number"
            f" {missing:05} is missing; download it again, or rename the files if this is all"
        )
