"""What an architecture leaves open: width, classes and the size of its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from ghn.errors import ConfigError

Width = TypeVar("Width")

LARGE_IMAGE = 64
"""Images of more pixels a side get the strided ("ImageNet") stem."""


@dataclass(frozen=True)
class Scaling:
    """Sizes that turn an architecture into a network.

    Attributes:
        channels: the width C, a multiple of 8 (attention has 8 heads, some convolutions C/2
            channels).
        fc_dim: width of the classifier's hidden layers; None for the architecture's own.
        num_classes: number of outputs.
        image_size: height and width of the input in pixels; a multiple of 16, of 32 above 64.
        imagenet_stride: stride of the simple stem on large images, 2 or 4 (GHN-3 trains with both).

    Raises:
        ConfigError: a size is out of range.
    """

    channels: int = 32
    fc_dim: int | None = None
    num_classes: int = 10
    image_size: int = 32
    imagenet_stride: int = 4

    def __post_init__(self) -> None:
        if self.channels <= 0 or self.channels % 8:
            raise ConfigError(f"channels must be a positive multiple of 8, is {self.channels}")
        if self.num_classes <= 0:
            raise ConfigError(f"num_classes must be positive, is {self.num_classes}")
        if self.fc_dim is not None and self.fc_dim <= 0:
            raise ConfigError(f"fc_dim must be positive, is {self.fc_dim}")
        step = 32 if self.large else 16
        if self.image_size <= 0 or self.image_size % step:
            raise ConfigError(
                f"image_size must be a multiple of 16, and of 32 above {LARGE_IMAGE}, is"
                f" {self.image_size}"
            )
        if self.imagenet_stride not in (2, 4):
            raise ConfigError(f"imagenet_stride must be 2 or 4, is {self.imagenet_stride}")

    @property
    def large(self) -> bool:
        """Whether the input is of ImageNet's size rather than CIFAR's."""
        return self.image_size > LARGE_IMAGE

    @property
    def patch(self) -> int:
        """Kernel and stride of the patch embedding of networks with attention, in pixels."""
        return 16 if self.large else 3

    @property
    def patch_padding(self) -> int:
        """Padding of the patch embedding, in pixels."""
        return 0 if self.large else 1

    @property
    def patch_grid(self) -> int:
        """Patches along a side: 14 at 224 pixels, 11 at 32."""
        return (self.image_size + 2 * self.patch_padding - self.patch) // self.patch + 1

    @property
    def two_part_stride(self) -> int:
        """Stride of the ImageNet-style stem, both parts together."""
        return 8 if self.large else 2

    def hidden(self, fc_dim: Width) -> int | Width:
        """Width of the classifier's hidden layers, given that of the architecture."""
        return self.fc_dim or fc_dim
