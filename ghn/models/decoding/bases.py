"""What predictions are added to (`GHNConfig.base`): parameters with which a network that nothing
has been learned for passes on what it sees.

Every layer but those of the first and last takes each channel on, at the middle of its kernel; the
first one has the channels' lowest spatial frequencies, with either sign. Whatever the architecture,
channel k then means about the same everywhere, and features keep their rank, so that what is
learned of one network is of use for others. A hypernetwork without a base has to find both out.

Shape legend: O/I output/input channels, Y/X kernel height/width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import torch
from torch import Tensor

from ghn.models.config import Base

_KEPT = 2**18
"""Largest number of entries of a base that is kept for the next network with that shape."""


@dataclass(frozen=True)
class Beside:
    """How parameters are predicted beside a base.

    Attributes:
        difference: factor of what is added to a base: a start that is not drowned at once.
        head: factor of the last layers' weights, which have no base: their features vary little.
        centred_heads: whether class weights sum to zero over input channels.
        norm_bias: base of norm biases: with zero, each ReLU behind a norm would take half of a
            channel away, and thirty of them nearly all of it.
    """

    difference: float = 1.0
    head: float = 1.0
    centred_heads: bool = False
    norm_bias: float = 0.0


BESIDE: dict[Base, Beside] = {
    "zero": Beside(),
    "identity": Beside(difference=0.2, head=25.0, centred_heads=True, norm_bias=0.5),
}


class Pattern(Enum):
    """What a parameter's base does."""

    identity = "identity"
    frequencies = "frequencies"


def base(pattern: Pattern, shape: Sequence[int], device: torch.device) -> Tensor:
    """The base of a parameter.

    Args:
        pattern: what it does.
        shape: (O, I, ...) with up to three dimensions of a kernel.
        device: where it is to be.
    """
    if math.prod(shape) > _KEPT:
        return _made(pattern, tuple(shape), device)
    return _kept(pattern, tuple(shape), device)


def add_base(pattern: Pattern, target: Tensor) -> None:
    """Adds the base of `target` to it in place, of the identity without a tensor of its size."""
    if pattern is Pattern.frequencies:
        target += base(pattern, target.shape, target.device).to(target.dtype)
        return
    middle = target
    for size in target.shape[2:]:
        middle = middle.select(2, size // 2)
    outputs, inputs = middle.shape
    step = min(outputs, inputs)
    share = 1.0 if outputs >= inputs else outputs / inputs
    for row in range(0, outputs, step):
        for column in range(0, inputs, step):
            middle[row : row + step, column : column + step].diagonal().add_(share)


def _made(pattern: Pattern, shape: tuple[int, ...], device: torch.device) -> Tensor:
    if pattern is Pattern.frequencies:
        return _frequencies(shape).to(device)
    found = torch.zeros(shape, device=device)
    add_base(pattern, found)
    return found


_kept = lru_cache(maxsize=1024)(_made)


def _frequencies(shape: tuple[int, ...]) -> Tensor:
    """(O, I, ...) filters of norm 1: the cosine basis (DCT-II) over channels and pixels, each with
    both signs, low frequencies first and again from the start where there are more outputs.
    """
    rows, *sides = shape
    waves = [_cosines(size) for size in sides]
    frequency = torch.cartesian_prod(*(torch.arange(size) for size in sides)).view(-1, len(sides))
    power = frequency.square()
    power[:, 0] = frequency[:, 0]  # colours vary as much as the slowest changes in space
    order = power.sum(1).argsort(stable=True)[: -(-rows // 2)]
    filters = []
    for chosen in frequency[order].tolist():
        filter_ = torch.ones(())
        for wave, k in zip(waves, chosen, strict=True):
            filter_ = filter_[..., None] * wave[k]
        filters.append(filter_)
    both = torch.stack([sign * filter_ for filter_ in filters for sign in (1.0, -1.0)])
    return both[torch.arange(rows) % len(both)]


def _cosines(size: int) -> Tensor:
    """(size, size) rows of norm 1: cosines of growing frequency."""
    place = torch.arange(size) + 0.5
    wave = torch.cos(math.pi / size * torch.arange(size)[:, None] * place)
    return torch.nn.functional.normalize(wave)
