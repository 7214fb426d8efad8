"""What fine-tuning asks of a data set, and a stratified order of its images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Images(Protocol):
    """A source of labelled batches, in memory or streaming (`datasets.images` has both)."""

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
        """Normalised images x_BCHW and labels y_B of an epoch, which depend on the arguments
        alone.
        """
        ...


def stratified_order(y_N: Tensor, seed: int) -> Tensor:
    """A random order of indices of which every prefix has the classes in nearly equal proportion to
    the whole.

    Each class's images are shuffled and spread evenly over the interval 0..1; the order is that of
    their places.
    """
    random = np.random.default_rng(seed)
    place_N = np.empty(len(y_N))
    labels_N = y_N.numpy()
    for label in np.unique(labels_N):
        members = np.flatnonzero(labels_N == label)
        place_N[random.permutation(members)] = (np.arange(len(members)) + random.random()) / len(
            members
        )
    return torch.from_numpy(np.argsort(place_N, kind="stable"))
