"""How wide networks are in training: fields of `train.networks` in params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from ghn.settings import Settings


def _check_channels(channels: tuple[int, int]) -> tuple[int, int]:
    low, high = channels
    if low <= 0 or low % 8 or high < low:
        raise ValueError(
            f"channels must be an increasing pair, the first a multiple of 8, is {[low, high]}"
        )
    return channels


def _check_fc_dim(fc_dim: tuple[int, int]) -> tuple[int, int]:
    if not 0 < fc_dim[0] <= fc_dim[1]:
        raise ValueError(
            f"fc_dim must be an increasing pair of positive numbers, is {list(fc_dim)}"
        )
    return fc_dim


Channels = Annotated[tuple[int, int], AfterValidator(_check_channels)]
FcDim = Annotated[tuple[int, int], AfterValidator(_check_fc_dim)]


class MetaBatchConfig(Settings):
    """How networks are sized in training.

    Attributes:
        channels: least and most width C, in steps of 16.
        fc_dim: least and most width of the classifier's hidden layers, in steps of 64.
        wider_nets: on large images the rule of GHN-3, which narrows fewer networks than that of
            GHN-2 and sometimes takes a stem of stride 2 instead of 4; on small ones GHN-3 has
            GHN-2's rule.
        max_nodes: most nodes in a meta-batch of up to 8 architectures, proportionally more in a
            larger one; no bound for single architectures.
        window: how many meta-batches are cut from one stretch of the shuffled split, in the order
            of their graphs' sizes: networks of about one size take ranks about one time, and
            graphs need less padding. 1 is the published way; with more, `max_nodes` leaves out
            meta-batches of large graphs only.
    """

    channels: Channels = Field(
        default=(32, 128), description="least and most width C, in steps of 16"
    )
    fc_dim: FcDim = Field(
        default=(64, 512), description="least and most hidden width, in steps of 64"
    )
    wider_nets: bool = Field(
        default=True,
        description="on large images the wider networks of GHN-3 (false: GHN-2's rule)",
    )
    max_nodes: int = Field(
        default=2200, gt=0, description="nodes per 8 architectures of a meta-batch"
    )
    window: int = Field(
        default=1, gt=0, description="meta-batches cut by size from one stretch of the split"
    )
