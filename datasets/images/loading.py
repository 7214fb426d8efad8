"""From a name to tensors: find the source, cut the splits by seed, decode once, keep the result."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from datasets.images.file import is_current
from datasets.images.pixels import fit
from datasets.images.sources.find import MissingImagesError, find_source, source_digest
from datasets.images.sources.table import Reader, Table
from datasets.images.splits import select
from datasets.images.tensors import ImageTensors
from datasets.images.traits import short_name, traits
from ghn.errors import DamagedFileError

RULES = "stratified, upright, full range"
"""Part of what a kept file is recognised by: change it whenever the same source would give other
pixels, labels or splits (`tests/datasets/images/test_image_rules.py` notices).
"""

_WINDOW = 2000  # rows whose blocks are in memory together
_CHUNK = 250  # rows that a thread decodes at a time


def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    image_size: int = 32,
    *,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    prepared: str | os.PathLike[str] | None = None,
) -> ImageTensors:
    """A split of a data set as uint8 tensors.

    Args:
        name: see `datasets.images.find_source`.
        root: directory with the data; default: the environment's GHN_DATA_ROOT, else
            ../shared/data.
        split: one of train, val, test, all; see `datasets.images.splits.select`.
        image_size: side in pixels; other images are resized (shorter side) and cropped at the
            centre.
        val_fraction: share of the training images that is held out.
        test_fraction: share that becomes the test split of a data set without one.
        seed: of the draw of held-out images.
        cache: directory to keep the decoded tensors in, as
            `<cache>/<name>/<split>-<size>px.safetensors`; by default they are not kept. A file
            there is used if it was made in the same way from a source of the same content, and
            replaced if not. Where the source is gone (a worker that only pulled the cache) the
            cache alone will do, if it was made under this very name.
        prepared: another such directory, which is only read.

    Raises:
        ConfigError: no such data set or split.
        DamagedFileError: an image or file is broken; says which.
        UnsupportedFormatError: an image or label has no agreed meaning; says which.
        OSError: the cache cannot be written; has the file's name.
    """
    kind, file = short_name(name), split_file(name, split, image_size)
    key: dict[str, str | None] = {"recipe": recipe(image_size, val_fraction, test_fraction, seed)}
    asked = name if name != Path(name).name else None  # the file is called as its last part
    missing = None
    try:
        tables = find_source(name, root)
        key["source"] = source_digest(tables)
    except MissingImagesError as error:
        missing, tables = error, {}
        key["name"] = asked
    if prepared is not None and is_current(Path(prepared) / file, key):
        return ImageTensors.open(Path(prepared) / file)
    if cache is not None and is_current(Path(cache) / file, key):
        try:
            return ImageTensors.open(Path(cache) / file)
        except DamagedFileError:
            if missing is not None:
                raise
    if missing is not None:
        raise missing
    table, rows = select(tables, split, val_fraction, test_fraction, seed)
    of_name = traits(name, image_size)
    images = ImageTensors(
        images=decode_rows(table, rows, image_size, f"{kind}/{split}"),
        labels=torch.from_numpy(table.labels[rows]),
        classes=tuple(table.classes),
        mean=of_name.mean,
        std=of_name.std,
        flip=of_name.flip,
        name=f"{kind}/{split}",
    )
    if cache is not None:
        entries = key | {"name": asked}
        images.save(Path(cache) / file, {field: its for field, its in entries.items() if its})
    return images


def split_file(name: str, split: str, image_size: int) -> Path:
    """The path of a decoded split below a cache."""
    return Path(Path(name).absolute().name) / f"{split}-{image_size}px.safetensors"


def recipe(image_size: int, val_fraction: float, test_fraction: float, seed: int) -> str:
    """How splits are made from a source: entry `recipe` of the metadata of their files."""
    return f"{image_size}/{val_fraction}/{test_fraction}/{seed}/{RULES}"


def decode_rows(table: Table, rows: NDArray[np.int64], image_size: int, name: str) -> torch.Tensor:
    """(len(rows), 3, S, S) uint8: `rows` (sorted) of `table`, every block read once, decoded by
    threads (Pillow releases the interpreter lock).
    """
    images = np.empty((len(rows), image_size, image_size, 3), dtype=np.uint8)

    def fill(job: tuple[int, int, Reader]) -> int:
        begin, end, read = job
        for i in range(begin, end):
            images[i] = np.asarray(fit(read(int(rows[i])), image_size))
        return end - begin

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(
            total=len(rows), desc=f"decoding {name}", unit="image", leave=False, disable=None
        ) as bar,
    ):
        for window in _windows(_jobs(table, rows)):
            for n in pool.map(fill, window):
                bar.update(n)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _jobs(table: Table, rows: NDArray[np.int64]) -> Iterator[tuple[int, int, Reader]]:
    """Ranges of `rows` that lie in one block, with the block opened."""
    ends = np.searchsorted(rows, [end for _, end in table.blocks]).tolist()
    for block, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if begin < end:
            read = table.open(block)
            for start in range(begin, end, _CHUNK):
                yield start, min(start + _CHUNK, end), read


def _windows(
    jobs: Iterable[tuple[int, int, Reader]],
) -> Iterator[list[tuple[int, int, Reader]]]:
    """Lists of jobs of a bounded number of rows, so that a bounded number of blocks is held."""
    window, n = [], 0
    for job in jobs:
        window.append(job)
        n += job[1] - job[0]
        if n >= _WINDOW:
            yield window
            window, n = [], 0
    if window:
        yield window
