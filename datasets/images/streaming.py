"""Image data that does not fit into memory: decoded and cropped in worker processes, batch by
batch, every epoch.

Order: the blocks of the table (row groups of Parquet) are shuffled and dealt to S lanes. A lane
goes through its blocks
in pools of a few, shuffling the rows of a pool, and cuts batches from them. The epoch takes batches
from the lanes in turn, and a worker serves whole lanes, so it reads every block once and (nearly)
sequentially. The order, and every crop, depend on (seed, epoch, batch) alone: not on the number of
workers, and not on what came before, so that an epoch resumes at any batch at no cost.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datasets.images.augment import normalize
from datasets.images.loading import fit, moments, select
from datasets.images.sources import Table, find_source
from ghn.errors import ConfigError


@dataclass(frozen=True, eq=False)
class ImageStream:
    """A split of a large data set, with the `batches` of `ImageTensors`.

    Attributes:
        table: encoded images.
        rows: (N,) the rows of the split.
        image_size: side of the crops in pixels.
        name: of the data set, for messages and normalisation.
        workers: decoding processes; 0 decodes in the caller.
        lanes: number of interleaved orders; should be a multiple of `workers`.
        pool: blocks whose rows are shuffled together.
        flip: whether mirrored images are of their class.
    """

    table: Table
    rows: NDArray[np.int64]
    image_size: int = 224
    name: str = "imagenet"
    workers: int = 0
    lanes: int = 8
    pool: int = 16
    flip: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    def __post_init__(self) -> None:
        if self.workers and self.lanes % self.workers:
            raise ConfigError(f"lanes={self.lanes} must be a multiple of workers={self.workers}")

    @property
    def classes(self) -> Sequence[str]:
        """The name of each label."""
        return self.table.classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the source's fingerprint and the rows: the pixels themselves are not read for
        it.
        """
        return hashlib.sha256(self.table.fingerprint().encode() + self.rows.tobytes()).hexdigest()

    def n_batches(self, batch_size: int, drop_last: bool = True) -> int:
        """Batches in an epoch (a lane drops or keeps its own last batch)."""
        return len(self._order(batch_size, 0, 0, True, drop_last))

    def batches(
        self,
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        augment: bool = False,
        *,
        start: int = 0,
        shuffle: bool = True,
        drop_last: bool | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As `ImageTensors.batches`, augmented by random resized crops (area 8 to 100 %) and
        mirroring.
        """
        order = self._order(
            batch_size, seed, epoch, shuffle, augment if drop_last is None else drop_last
        )
        work = [(batch, k) for k, batch in enumerate(order)][start:]
        data = _Batches(self, seed, epoch, augment)
        # Batch k belongs to lane k % lanes; the loader deals batches to its workers in turn.
        # Starting elsewhere in the epoch only changes which worker serves a lane.
        loader = DataLoader(
            data,
            batch_size=None,
            sampler=work,
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            pin_memory=torch.cuda.is_available(),
        )
        mean, std = moments(self.name, self.image_size)
        for images, labels in loader:
            if device is not None:
                images, labels = (
                    images.to(device, non_blocking=True),
                    labels.to(device, non_blocking=True),
                )
            yield normalize(images, mean, std), labels

    def _order(
        self, batch_size: int, seed: int, epoch: int, shuffle: bool, drop_last: bool
    ) -> list[NDArray[np.int64]]:
        """The rows of each batch of an epoch."""
        if not shuffle:
            batches = [self.rows[i : i + batch_size] for i in range(0, len(self.rows), batch_size)]
        else:
            draw = np.random.default_rng((seed, epoch))
            starts = np.array([begin for begin, _ in self.table.blocks])
            block = np.searchsorted(starts, self.rows, side="right")
            boundaries = np.flatnonzero(np.diff(block)) + 1
            blocks = np.split(self.rows, boundaries)
            blocks = [blocks[i] for i in draw.permutation(len(blocks))]
            lanes: list[list[NDArray[np.int64]]] = []
            for lane in range(self.lanes):
                own = blocks[lane :: self.lanes]
                pools = [
                    np.concatenate(own[i : i + self.pool]) for i in range(0, len(own), self.pool)
                ]
                rows = (
                    np.concatenate([draw.permutation(p) for p in pools])
                    if pools
                    else np.empty(0, dtype=np.int64)
                )
                lanes.append([rows[i : i + batch_size] for i in range(0, len(rows), batch_size)])
            batches = [
                lane[k] for k in range(max(map(len, lanes))) for lane in lanes if k < len(lane)
            ]
        if drop_last:
            batches = [batch for batch in batches if len(batch) == batch_size]
            if not batches:
                raise ConfigError(
                    f"{self.name} has {len(self)} images, too few for a batch of {batch_size} per"
                    " lane"
                )
        return batches


@dataclass(frozen=True)
class _Batches(Dataset[tuple[Tensor, Tensor]]):
    stream: ImageStream
    seed: int
    epoch: int
    augment: bool

    def __getitem__(self, item: Any) -> tuple[Tensor, Tensor]:
        rows, k = item
        size = self.stream.image_size
        images = np.empty((len(rows), size, size, 3), dtype=np.uint8)
        draw = np.random.default_rng((self.seed, self.epoch, k))
        for i, row in enumerate(rows):
            image = self.stream.table.read(int(row))
            images[i] = np.asarray(
                random_resized_crop(image, size, draw, self.stream.flip)
                if self.augment
                else fit(image, size)
            )
        labels = torch.from_numpy(self.stream.table.labels[rows])
        return torch.from_numpy(images).permute(0, 3, 1, 2), labels


def random_resized_crop(
    image: Image.Image, size: int, draw: np.random.Generator, flip: bool
) -> Image.Image:
    """A window of 8 to 100 % of the area and aspect ratio 3/4 to 4/3, resized to `size`, mirrored
    half of the time.
    """
    width, height = image.size
    for _ in range(10):
        area = width * height * draw.uniform(0.08, 1.0)
        ratio = np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draw.integers(width - w + 1)), int(draw.integers(height - h + 1))
            break
    else:  # a very long image: its centre, at the nearest allowed ratio
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
    image = image.resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + w, top + h)
    )
    mirrored = flip and draw.random() < 0.5
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image


def stream(
    name: str,
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    image_size: int = 224,
    *,
    val_fraction: float = 0.02,
    seed: int = 0,
    workers: int = 0,
    lanes: int = 8,
) -> ImageStream:
    """A split of a data set as an `ImageStream`; arguments as of `load`.

    Raises:
        ConfigError: no such data set or split.
    """
    table, rows = select(find_source(name, root), split, val_fraction, seed=seed)
    return ImageStream(table, rows, image_size, name, workers, lanes)
