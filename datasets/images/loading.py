"""From a name to tensors: find the source, cut the splits by seed, decode once, keep the result
beside the pipeline.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from datasets.images.sources import TEST_NAMES, Table, find_source
from datasets.images.tensors import ImageTensors, read_metadata
from ghn.errors import ConfigError, DamagedFileError, UnsupportedFormatError

SPLITS = ("train", "val", "test", "all")
DEFAULT_CACHE = Path("data/images")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MOMENTS = {  # per channel; what is not listed is normalised like ImageNet
    "cifar10": ((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)),
    "cifar100": ((0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047)),
    "digits": ((0.3055,) * 3, (0.3237,) * 3),
}
_NO_FLIP = {"digits", "mnist", "svhn", "qmnist", "kmnist", "emnist", "usps"}


def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    image_size: int = 32,
    *,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = DEFAULT_CACHE,
) -> ImageTensors:
    """A split of a data set as uint8 tensors.

    Splits: "test" is the stored test split (of ImageNet: its public validation split); "val" is the
    stored validation
    split if there is a test split besides, else a fraction of the stored training split drawn by
    `seed`, which "train" then leaves out. A data set that is stored as one table is cut into all
    three by `seed`; "all" is the whole of it.

    Args:
        name: see `datasets.images.sources.find_source`.
        root: directory with the data; default: the environment's GHN_DATA_ROOT, else
            ../shared/data.
        split: one of train, val, test, all.
        image_size: side in pixels; other images are resized (shorter side) and cropped at the
            centre.
        val_fraction: share of the training images that is held out.
        test_fraction: share that becomes the test split of a data set without one.
        seed: of the draw of held-out images.
        cache: directory for the decoded tensors (`<cache>/<name>/<split>-<size>px.safetensors`);
            None: do not keep them. Where the source is gone (a worker that only pulled the cache)
            the cache alone will do.

    Raises:
        ConfigError: no such data set or split.
        DamagedFileError: an image or file is broken; says which.
    """
    if split not in SPLITS:
        raise ConfigError(
            f"split {split!r} of images does not exist; choose one of {', '.join(SPLITS)}"
        )
    kind = Path(name).stem.lower()
    recipe = f"{image_size}/{val_fraction}/{test_fraction}/{seed}"
    path = Path(cache) / kind / f"{split}-{image_size}px.safetensors" if cache is not None else None
    stored = _stored_key(path) if path else {}
    try:
        tables = find_source(name, root)
    except ConfigError:
        if path and stored.get("recipe") == recipe:
            return ImageTensors.open(path)
        raise
    table, rows = select(tables, split, val_fraction, test_fraction, seed)
    key = {
        "recipe": recipe,
        "source": hashlib.sha256((table.fingerprint() + str(len(rows))).encode()).hexdigest(),
    }
    if path and all(stored.get(field) == value for field, value in key.items()):
        try:
            return ImageTensors.open(path)
        except DamagedFileError:
            path.unlink()  # a cache that rotted is built again
    mean, std = moments(kind, image_size)
    images = ImageTensors(
        images=decode(table, rows, image_size, f"{kind}/{split}"),
        labels=torch.from_numpy(table.labels[rows]),
        classes=tuple(table.classes),
        mean=mean,
        std=std,
        flip=kind not in _NO_FLIP,
        name=f"{kind}/{split}",
    )
    if path:
        images.save(path, key)
    return images


def select(
    tables: Mapping[str, Table],
    split: str,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> tuple[Table, NDArray[np.int64]]:
    """The stored table that holds a split, and its rows of that split in stored order (the rules:
    see `load`).

    Raises:
        ConfigError: the data set has no such split.
    """
    draw = np.random.default_rng(seed)
    if "all" in tables:
        table = tables["all"]
        order = draw.permutation(len(table.labels))
        n_test = round(test_fraction * len(order))
        n_val = round(val_fraction * (len(order) - n_test))
        parts = {
            "test": order[:n_test],
            "val": order[n_test : n_test + n_val],
            "train": order[n_test + n_val :],
        }
        return table, np.sort(parts.get(split, order))
    test = next((name for name in TEST_NAMES if name in tables), None)
    val = next((name for name in TEST_NAMES if name in tables and name != test), None)
    stored = {"test": test, "val": val, "train": "train" if "train" in tables else None}
    if (source := stored.get(split)) and (split != "train" or val):
        return tables[source], np.arange(len(tables[source].labels))
    if split in ("train", "val") and "train" in tables:
        table = tables["train"]
        order = draw.permutation(len(table.labels))
        n_val = round(val_fraction * len(order))
        return table, np.sort(order[:n_val] if split == "val" else order[n_val:])
    raise ConfigError(f"no split {split!r}: the data set is stored as {', '.join(tables)}")


def moments(
    kind: str, image_size: int
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation to normalise by: the data set's own at its own size, ImageNet's otherwise.

    Resized small images go to networks whose parameters come from ImageNet, and these want its
    moments.
    """
    mean, std = (
        _MOMENTS.get(kind, (IMAGENET_MEAN, IMAGENET_STD))
        if image_size <= 32
        else (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def decode(table: Table, rows: NDArray[np.int64], image_size: int, name: str) -> torch.Tensor:
    """(len(rows), 3, S, S) uint8: `rows` of `table`, decoded by threads (Pillow releases the
    interpreter lock).
    """
    images = np.empty((len(rows), image_size, image_size, 3), dtype=np.uint8)
    chunks = np.array_split(np.arange(len(rows)), max(1, len(rows) // 500))

    def fill(chunk: NDArray[np.int64]) -> int:
        for i in chunk:
            images[i] = np.asarray(fit(table.read(int(rows[i])), image_size))
        return len(chunk)

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(
            total=len(rows), desc=f"decoding {name}", unit="image", leave=False, disable=None
        ) as bar,
    ):
        for n in pool.map(fill, chunks):
            bar.update(n)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def fit(image: Image.Image, size: int) -> Image.Image:
    """Resizes the shorter side and crops the centre; at 64 pixels and above with the customary
    margin of 256 to 224.
    """
    width, height = image.size
    if (width, height) == (size, size):
        return image
    shorter = round(size * 256 / 224) if size >= 64 else size
    scale = shorter / min(width, height)
    image = image.resize(
        (max(size, round(width * scale)), max(size, round(height * scale))),
        Image.Resampling.BILINEAR,
    )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _stored_key(path: Path) -> dict[str, str]:
    try:
        return read_metadata(path)
    except (FileNotFoundError, DamagedFileError, UnsupportedFormatError):
        return {}
