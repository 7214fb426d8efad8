"""A labelled image data set in memory: decoded once, uint8, cut into augmented batches on
demand.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from datasets.images.augment import crop_and_flip, normalize, to_device
from datasets.images.file import read_images, write_images
from datasets.images.traits import Channels
from ghn.errors import ConfigError
from ghn.randomness import seed_of

_ABOUT = ("classes", "mean", "std", "flip", "name")


@dataclass(frozen=True, eq=False, repr=False)
class ImageTensors:
    """N labelled images as tensors.

    Attributes:
        images: (N, 3, S, S) uint8.
        labels: (N,) int64.
        classes: the name of each label.
        mean: per channel, of values in [0, 1], subtracted by `batches`.
        std: per channel, of values in [0, 1], divided by.
        flip: whether a mirrored image is still of its class (false for digits).
        name: for messages.
    """

    images: Tensor
    labels: Tensor
    classes: Sequence[str]
    mean: Channels
    std: Channels
    flip: bool = True
    name: str = field(default="")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return (
            f"ImageTensors({self.name!r}: {len(self)} images of {self.image_size} pixels,"
            f" {self.num_classes} classes)"
        )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return int(self.images.shape[-1])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the pixels and labels: equal for equal data, whatever file they came from."""
        sha = hashlib.sha256(repr((tuple(self.images.shape), list(self.classes))).encode())
        sha.update(self.images.contiguous().numpy().data)
        sha.update(self.labels.contiguous().numpy().data)
        return sha.hexdigest()

    def n_batches(self, batch_size: int, drop_last: bool = True) -> int:
        """Batches in an epoch."""
        return len(self) // batch_size if drop_last else -(-len(self) // batch_size)

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
        """The batches of one epoch: float32 (B, 3, S, S) normalised, channels last, and int64
        labels (B,).

        Batch k depends on the arguments and k alone, so that `start` resumes an epoch exactly.

        Args:
            batch_size: images per batch B.
            seed: of shuffling and augmentation.
            epoch: another epoch, another order.
            augment: random crops after padding by an eighth of the side, and mirroring where it is
                allowed.
            start: first batch to give.
            shuffle: in a random order; else as stored.
            drop_last: whether to leave out a smaller last batch; by default when augmenting, i.e.
                training.
            device: where the batch goes, while it is still uint8.

        Raises:
            ConfigError: the data set has fewer images than one batch, so an epoch would be empty.
        """
        drop_last = augment if drop_last is None else drop_last
        if drop_last and len(self) < batch_size:
            raise ConfigError(
                f"{self.name or 'the data set'} has {len(self)} images, fewer than"
                f" batch_size={batch_size}"
            )
        order = torch.arange(len(self), device="cpu")
        if shuffle:
            order = torch.randperm(len(self), generator=_generator(seed, epoch, 0), device="cpu")
        for k in range(start, self.n_batches(batch_size, drop_last)):
            index = order[k * batch_size : (k + 1) * batch_size]
            images, labels = self.images[index], self.labels[index]
            if device is not None:
                images, labels = to_device(images, labels, device)
            if augment:
                images = crop_and_flip(
                    images, _generator(seed, epoch, k + 1), self.image_size // 8, self.flip
                )
            yield normalize(images, self.mean, self.std), labels

    def subset(self, index: Tensor | Sequence[int]) -> ImageTensors:
        """The images at `index`, in that order."""
        index = torch.as_tensor(index, dtype=torch.int64, device="cpu")
        return replace(self, images=self.images[index], labels=self.labels[index])

    def few_shot(self, n_labels: int, seed: int = 0) -> ImageTensors:
        """`n_labels` images, spread over the classes as evenly as their number allows, drawn by
        `seed`.

        Raises:
            ConfigError: a class has too few images.
        """
        order = torch.randperm(len(self), generator=_generator(seed, 0, 0), device="cpu")
        quota = [
            n_labels // self.num_classes + (c < n_labels % self.num_classes)
            for c in range(self.num_classes)
        ]
        chosen = []
        for label, n in enumerate(quota):
            of_class = order[self.labels[order] == label]
            if len(of_class) < n:
                raise ConfigError(
                    f"{self.name}: class {self.classes[label]} has {len(of_class)} images, {n} are"
                    " asked for"
                )
            chosen.append(of_class[:n])
        return self.subset(torch.cat(chosen).sort().values)

    def save(self, path: str | os.PathLike[str], metadata: dict[str, str] | None = None) -> None:
        """Writes a safetensors file with the tensors and everything else in its metadata.

        Raises:
            OSError: the file cannot be written; has its name.
        """
        about = {field: getattr(self, field) for field in _ABOUT}
        tensors = {"images": self.images.contiguous(), "labels": self.labels.contiguous()}
        write_images(path, tensors, {"about": json.dumps(about), **(metadata or {})})

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ImageTensors:
        """Reads what `save` wrote, and verifies all of it (about a second per gigabyte).

        Raises:
            DamagedFileError: the file is truncated or differs from what was written.
            UnsupportedFormatError: the file is something else.
            FileNotFoundError: there is no such file.
        """
        tensors, metadata = read_images(path)
        about = json.loads(metadata["about"])
        about |= {field: tuple(about[field]) for field in ("classes", "mean", "std")}
        return cls(tensors["images"], tensors["labels"], **about)


def _generator(seed: int, epoch: int, k: int) -> torch.Generator:
    """A generator of its own for every (seed, epoch, k), so that no draw depends on what was drawn
    before.
    """
    return torch.Generator().manual_seed(seed_of(seed, epoch, k))
