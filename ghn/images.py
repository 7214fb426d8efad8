"""What training and fine-tuning ask of a data set of images, and its batches without end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from ghn.errors import ConfigError


class Images(Protocol):
    """A source of labelled batches, in memory or streaming (`datasets.images` has both).

    Every epoch has `n_batches` batches, and batch k of an epoch depends on the arguments and k
    alone, so that a run resumes at any batch of any epoch.
    """

    def __len__(self) -> int:
        """The number of images."""
        ...

    def n_batches(self, batch_size: int, drop_last: bool = True) -> int:
        """Batches in an epoch."""
        ...

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
        """Normalised images x_BCHW and labels y_B of an epoch, from batch `start` on."""
        ...


def require_images(**sets: Images) -> None:
    """Raises ConfigError if one of the sets, by their names, has no image."""
    for name, images in sets.items():
        if not len(images):
            raise ConfigError(f"the {name} set is empty; give at least one image")


def endless_batches(
    images: Images,
    batch_size: int,
    seed: int,
    *,
    start: int = 0,
    augment: bool = False,
    device: torch.device | str | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The whole batches of epoch after epoch, from batch number `start` of them all on.

    Raises:
        ConfigError: the data set has fewer images than a batch, or an epoch has fewer batches than
            `n_batches` says, so that no one could tell where a run is to resume.
    """
    per_epoch = images.n_batches(batch_size)
    if not per_epoch:
        raise ConfigError(
            f"{getattr(images, 'name', '') or 'the data set'} has {len(images)} images, fewer than"
            f" batch_size={batch_size}"
        )
    epoch, start = divmod(start, per_epoch)
    while True:
        batches = images.batches(
            batch_size, seed, epoch, augment, start=start, drop_last=True, device=device
        )
        for batch in islice(batches, per_epoch - start):
            yield batch
            start += 1
        if start < per_epoch:
            raise ConfigError(f"epoch {epoch} has {start} batches of {batch_size}, not {per_epoch}")
        epoch, start = epoch + 1, 0
