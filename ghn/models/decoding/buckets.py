"""Which tensors are decoded by one matrix product.

A product reads its weights once, however many rows it has, so tensors of about the same size are
decoded together with some superfluous channels; an estimate of what that costs decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ghn.models.config import GHNConfig
from ghn.models.decoding.plan import Group

_READ_ROWS = (
    18  # a matrix product reads its weights, which takes as long as this many rows of arithmetic
)
_COPY_ROWS = 16  # copying a block out of the weights costs about as much as this many rows
_CALL = 500_000  # cost of a call, in multiply-adds


@dataclass(frozen=True, eq=False)
class Bucket:
    """Groups whose tensors are decoded by one matrix product, with (out, in) channels that suffice
    for each.
    """

    channels: tuple[int, int]
    groups: tuple[Group, ...]

    @cached_property
    def positions(self) -> int:
        """Spatial positions of all parameters together: the rows of the matrix product."""
        return sum(len(group) * group.positions for group in self.groups)


def buckets(groups: Sequence[Group], config: GHNConfig, *, copied: bool) -> list[Bucket]:
    """Sorts `groups` into buckets.

    Args:
        groups: of tensors.
        config: of the hypernetwork.
        copied: whether a block of the weights is copied before it is multiplied.
    """
    merged: dict[tuple[int, int], list[Group]] = {}
    for group in groups:
        merged.setdefault(group.channels, []).append(group)
    result = [
        _extend(Bucket(channels, tuple(members)), config, copied)
        for channels, members in merged.items()
    ]
    for order in (lambda b: b.channels, lambda b: b.channels[::-1]):
        result.sort(key=order)
        kept: list[Bucket] = []
        for bucket in result:
            if kept and (union := _union(kept[-1], bucket, config, copied)) is not None:
                kept[-1] = union
            else:
                kept.append(bucket)
        result = kept
    return result


def _cost(channels: tuple[int, int], positions: int, config: GHNConfig, copied: bool) -> float:
    outputs, inputs = channels
    cut = _COPY_ROWS if copied and 1 < inputs < config.decoder_channels and outputs > 1 else 0
    return _CALL + 8 * config.hidden * outputs * inputs * (positions + _READ_ROWS + cut)


def _extend(bucket: Bucket, config: GHNConfig, copied: bool) -> Bucket:
    """Takes all input channels where that is cheaper than copying a block out of the weights."""
    whole = (bucket.channels[0], config.decoder_channels)
    if _cost(whole, bucket.positions, config, copied) < _cost(
        bucket.channels, bucket.positions, config, copied
    ):
        return Bucket(whole, bucket.groups)
    return bucket


def _union(a: Bucket, b: Bucket, config: GHNConfig, copied: bool) -> Bucket | None:
    channels = (max(a.channels[0], b.channels[0]), max(a.channels[1], b.channels[1]))
    union = _extend(Bucket(channels, a.groups + b.groups), config, copied)
    apart = sum(_cost(bucket.channels, bucket.positions, config, copied) for bucket in (a, b))
    return union if _cost(union.channels, union.positions, config, copied) < apart else None
