"""What a data set's name tells beyond its files: moments to normalise by, and whether a mirrored
image is still of its class. This is the only place that knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Channels = tuple[float, float, float]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)

_OWN_SIZE = 32  # pixels; at larger sizes networks expect ImageNet's moments
_MOMENTS: dict[str, tuple[Channels, Channels]] = {
    "cifar10": ((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)),
    "cifar100": ((0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047)),
    "digits": ((0.3055,) * 3, (0.3237,) * 3),
}
_NO_FLIP = {"digits", "mnist", "svhn", "qmnist", "kmnist", "emnist", "usps", "semeion", "omniglot"}


@dataclass(frozen=True)
class Traits:
    """How the images of a data set are normalised and augmented.

    Attributes:
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
        flip: whether a mirrored image is still of its class (false for digits).
    """

    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    flip: bool = True


IMAGENET = Traits()


def short_name(name: str) -> str:
    """The last part of a data set's name or path, without the suffix of a Parquet file: what its
    outputs are called. It is no identity, as two roots can hold data sets of one name.
    """
    return Path(name).absolute().name.removesuffix(".parquet")


def traits(name: str, image_size: int) -> Traits:
    """The traits of data set `name` (a path or a name in any case) at `image_size` pixels.

    The moments are its own at its own size, else ImageNet's: resized small images go to networks
    whose parameters come from ImageNet, and these want its moments.
    """
    kind = short_name(name).lower()
    mean, std = _MOMENTS.get(kind, (IMAGENET_MEAN, IMAGENET_STD))
    if image_size > _OWN_SIZE:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    return Traits(mean, std, kind not in _NO_FLIP)
