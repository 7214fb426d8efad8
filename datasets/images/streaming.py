"""Image data that does not fit into memory: decoded and cropped in worker processes, batch by
batch, every epoch.

The order, and every crop, depend on (seed, epoch, batch) alone: not on the number of workers, and
not on what came before, so that an epoch resumes at any batch at no cost. A worker serves whole
lanes of the order (`datasets.images.order`) and reads every block once.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datasets.images.augment import normalize, random_resized_crop, to_device
from datasets.images.order import Order
from datasets.images.pixels import fit
from datasets.images.sources.find import find_source
from datasets.images.sources.table import Reader, Table
from datasets.images.splits import select
from datasets.images.traits import IMAGENET, Traits, short_name, traits
from ghn.errors import ConfigError


@dataclass(frozen=True, eq=False, repr=False)
class ImageStream:
    """A split of a large data set, with the `batches` of `ImageTensors`.

    Attributes:
        table: encoded images.
        rows: (N,) the rows of the split, sorted.
        image_size: side of the crops in pixels.
        traits: how images are normalised, and whether they may be mirrored.
        name: for messages.
        workers: decoding processes; 0 decodes in the caller.
        lanes: number of interleaved orders; a multiple of `workers`.
        pool: rows that are shuffled together in a lane; their files' bytes are in memory.
    """

    table: Table
    rows: NDArray[np.int64]
    image_size: int = 224
    traits: Traits = IMAGENET
    name: str = ""
    workers: int = 0
    lanes: int = 8
    pool: int = 1600

    def __post_init__(self) -> None:
        if self.workers and self.lanes % self.workers:
            raise ConfigError(f"lanes={self.lanes} must be a multiple of workers={self.workers}")

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return (
            f"ImageStream({self.name!r}: {len(self)} images, crops of {self.image_size} pixels,"
            f" {self.num_classes} classes)"
        )

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
        """SHA-256 of the source's content and of the rows."""
        return hashlib.sha256(self.table.digest.encode() + self.rows.tobytes()).hexdigest()

    @cached_property
    def order(self) -> Order:
        """The batches of every epoch."""
        return Order(self.table.blocks, self.rows, self.lanes, self.pool)

    def n_batches(self, batch_size: int, drop_last: bool = True) -> int:
        """Batches in every shuffled epoch.

        Raises:
            ConfigError: there are too few images for a batch, so that an epoch would be empty.
        """
        n = self.order.n_batches(batch_size, drop_last)
        if not n:
            raise ConfigError(
                f"{self.name} has {len(self)} images in {self.lanes} lanes, too few for a batch of"
                f" {batch_size}; load it into memory (images.stream: false)"
            )
        return n

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
        mirroring. In stored order, which is for looking at, one worker reads at most.
        """
        drop_last = augment if drop_last is None else drop_last
        slots = self._slots(batch_size, seed, epoch, shuffle, drop_last)
        number = np.cumsum([len(rows) > 0 for rows in slots]) - 1
        work = [(rows, k) for rows, k in zip(slots, number.tolist(), strict=True) if k >= start]
        # Slot k belongs to lane k % lanes, and the loader deals slots to its workers in turn:
        # starting elsewhere in the epoch only changes which worker serves a lane.
        workers = self.workers if shuffle else min(self.workers, 1)
        loader = DataLoader(
            _Decoder(self, seed, epoch, augment, work),
            batch_size=None,
            sampler=work,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            pin_memory=torch.cuda.is_available(),
        )
        for batch in loader:
            if batch is None:
                continue
            images, labels = batch
            if device is not None:
                images, labels = to_device(images, labels, device)
            yield normalize(images, self.traits.mean, self.traits.std), labels

    def _slots(
        self, batch_size: int, seed: int, epoch: int, shuffle: bool, drop_last: bool
    ) -> list[NDArray[np.int64]]:
        if shuffle:
            self.n_batches(batch_size, drop_last)
            return self.order.slots(batch_size, seed, epoch, drop_last)
        end = len(self) // batch_size * batch_size if drop_last else len(self)
        return [self.rows[i : min(i + batch_size, end)] for i in range(0, end, batch_size)]


class _Decoder(Dataset[tuple[Tensor, Tensor] | None]):
    """Decodes batches in the order of `work`. A block stays open until its last row is decoded."""

    def __init__(
        self,
        stream: ImageStream,
        seed: int,
        epoch: int,
        augment: bool,
        work: Sequence[tuple[NDArray[np.int64], int]],
    ) -> None:
        self.stream, self.seed, self.epoch, self.augment = stream, seed, epoch, augment
        self.open: dict[int, Reader] = {}
        self.left: Counter[int] = Counter()
        for rows, _ in work:
            self.left.update(stream.order.block_of(rows).tolist())

    def __getitem__(self, item: Any) -> tuple[Tensor, Tensor] | None:
        rows, k = item
        if not len(rows):
            return None
        size, flip = self.stream.image_size, self.stream.traits.flip
        images = np.empty((len(rows), size, size, 3), dtype=np.uint8)
        draw = np.random.default_rng((self.seed, self.epoch, k))
        blocks = self.stream.order.block_of(rows).tolist()
        for i, (row, block) in enumerate(zip(rows.tolist(), blocks, strict=True)):
            image = self._reader(block)(row)
            images[i] = np.asarray(
                random_resized_crop(image, size, draw, flip) if self.augment else fit(image, size)
            )
        labels = torch.from_numpy(self.stream.table.labels[rows])
        return torch.from_numpy(images).permute(0, 3, 1, 2), labels

    def _reader(self, block: int) -> Reader:
        read = self.open.get(block) or self.stream.table.open(block)
        self.left[block] -= 1
        if self.left[block]:
            self.open[block] = read
        else:
            self.open.pop(block, None)
        return read


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
        GHNError: as `load`.
    """
    table, rows = select(find_source(name, root), split, val_fraction, seed=seed)
    of_name = traits(name, image_size)
    return ImageStream(table, rows, image_size, of_name, short_name(name), workers, lanes)
