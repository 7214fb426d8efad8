"""Settings of the initialisations that optimise something."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ghn.settings import Settings


class GradInitConfig(Settings):
    """The defaults are those of the paper's CIFAR-10 experiments, with fewer iterations."""

    iterations: int = Field(default=200, ge=1)
    scale_lr: float = Field(default=1e-2, gt=0, description="learning rate of the scales (Adam)")
    min_scale: float = Field(default=0.01, gt=0)
    gamma: float = Field(default=1.0, gt=0, description="largest gradient norm allowed")
    optimizer: Literal["sgd", "adam"] = Field(
        default="sgd", description="which step to look ahead by"
    )
    lr: float = Field(default=0.1, gt=0, description="learning rate of that step")
    batch_size: int = Field(default=64, ge=2)
    clip: float = Field(
        default=1.0, gt=0, description="largest change of the scales' gradient norm"
    )


class MetaInitConfig(Settings):
    """The defaults are the paper's, with fewer iterations."""

    iterations: int = Field(default=100, ge=1)
    lr: float = Field(default=0.1, gt=0, description="change of a norm by one iteration")
    momentum: float = Field(default=0.9, ge=0, lt=1)
    batch_size: int = Field(default=32, ge=1)
    epsilon: float = Field(default=1e-5, gt=0)


class NIOConfig(Settings):
    """The defaults are those of the published code."""

    iterations: int = Field(default=100, ge=1)
    scale_lr: float = Field(default=5e-2, gt=0, description="learning rate of the scales (Adam)")
    min_scale: float = Field(default=0.01, gt=0)
    gamma: float = Field(default=5.0, gt=0, description="largest mean gradient norm allowed")
    parts: int = Field(default=2, ge=2, description="of a batch, whose gradients are compared")
    overlap: float = Field(
        default=0.0, ge=0, lt=1, description="of neighbouring parts, as a share of a part's length"
    )
    batch_size: int = Field(default=64, ge=2)
    clip: float = Field(
        default=1.0, gt=0, description="largest change of the scales' gradient norm"
    )
