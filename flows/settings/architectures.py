"""Section `architectures` of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ghn.settings import Settings

EvaluationSplit = Literal["test", "wide", "deep", "dense", "bnfree"]
TargetSplit = Literal["test", "wide", "deep", "dense", "bnfree", "torchvision"]


class ArchitecturesConfig(Settings):
    """Which architectures are predicted and evaluated."""

    splits: tuple[EvaluationSplit, ...] = Field(
        default=("test", "wide", "deep", "dense", "bnfree"),
        description="evaluation splits of DeepNets-1M",
    )
    per_split: int | None = Field(
        default=None, ge=1, description="only the first so many of each split; null for all"
    )
    torchvision: Literal["all"] | tuple[str, ...] = Field(
        default="all",
        description="`all` for the 74 of paper table 20, or a list of torchvision names",
    )
