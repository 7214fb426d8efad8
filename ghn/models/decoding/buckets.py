"""Which tensors are decoded by one matrix product.

A product reads its weights once, however many rows it has, so tensors of about the same size are
decoded together with some superfluous channels; an estimate of what that costs decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from ghn.models.config import GHNConfig
from ghn.models.decoding.costs import Costs
from ghn.models.decoding.plan import Group

Cost = Callable[[tuple[int, int], int], float]
"""Of (out, in) channels and a number of rows, in multiply-adds."""


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


def buckets(
    groups: Sequence[Group], config: GHNConfig, costs: Costs, *, copied: bool
) -> list[Bucket]:
    """Sorts `groups` into buckets.

    Args:
        groups: of tensors.
        config: of the hypernetwork.
        costs: of the device that decodes them.
        copied: whether a block of the weights is copied before it is multiplied.
    """
    cost = partial(_cost, config=config, costs=costs, copied=copied)
    merged: dict[tuple[int, int], list[Group]] = {}
    for group in groups:
        merged.setdefault(group.channels, []).append(group)
    result = [
        _extend(Bucket(channels, tuple(members)), config, cost)
        for channels, members in merged.items()
    ]
    for order in (lambda b: b.channels, lambda b: b.channels[::-1]):
        result.sort(key=order)
        kept: list[Bucket] = []
        for bucket in result:
            if kept and (union := _union(kept[-1], bucket, config, cost)) is not None:
                kept[-1] = union
            else:
                kept.append(bucket)
        result = kept
    return result


def _cost(
    channels: tuple[int, int], positions: int, config: GHNConfig, costs: Costs, copied: bool
) -> float:
    outputs, inputs = channels
    cut = copied and 1 < inputs < config.decoder_channels and outputs > 1
    rows = positions + costs.read_rows + (costs.copy_rows if cut else 0)
    return costs.call + 8 * config.hidden * outputs * inputs * rows


def _extend(bucket: Bucket, config: GHNConfig, cost: Cost) -> Bucket:
    """Takes all input channels where that is cheaper than copying a block out of the weights."""
    whole = (bucket.channels[0], config.decoder_channels)
    if cost(whole, bucket.positions) < cost(bucket.channels, bucket.positions):
        return Bucket(whole, bucket.groups)
    return bucket


def _union(a: Bucket, b: Bucket, config: GHNConfig, cost: Cost) -> Bucket | None:
    channels = (max(a.channels[0], b.channels[0]), max(a.channels[1], b.channels[1]))
    union = _extend(Bucket(channels, a.groups + b.groups), config, cost)
    apart = sum(cost(bucket.channels, bucket.positions) for bucket in (a, b))
    return union if cost(union.channels, union.positions) < apart else None
