"""Section `architectures` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from ghn.errors import GHNError
from ghn.names import find
from ghn.settings import Once, Settings

EvaluationSplit = Literal["test", "wide", "deep", "dense", "bnfree"]
TargetSplit = Literal["test", "wide", "deep", "dense", "bnfree", "torchvision"]

_NOTHING = "nothing would be predicted and evaluated; name splits, or torchvision's"


def _check_networks(names: Literal["all"] | tuple[str, ...]) -> Literal["all"] | tuple[str, ...]:
    """Raises ValueError if torchvision has no network of one of these names; says the nearest."""
    for name in () if names == "all" else names:
        try:
            found = find(name)
        except GHNError as error:
            raise ValueError(str(error)) from None
        if name not in found:
            raise ValueError(f"{name!r} is a pattern, and names are asked for: {', '.join(found)}")
    return names


NETWORKS = AfterValidator(_check_networks)
"""Of fields with names of torchvision's networks: all must exist."""


class ArchitecturesConfig(Settings):
    """Which architectures are predicted and evaluated."""

    splits: Once[EvaluationSplit] = Field(
        default=("test", "wide", "deep", "dense", "bnfree"),
        description="evaluation splits of DeepNets-1M",
    )
    per_split: int | None = Field(
        default=None, ge=1, description="only the first so many of each split; null for all"
    )
    torchvision: Annotated[Literal["all"] | Once[str], NETWORKS] = Field(
        default="all",
        description="`all` for the 74 of paper table 20, or a list of torchvision names",
    )

    @model_validator(mode="after")
    def _some(self) -> ArchitecturesConfig:
        """Refuses settings that name no network at all."""
        if self.splits or self.torchvision:
            return self
        problem: InitErrorDetails = {
            "type": "value_error",
            "loc": ("splits",),
            "input": self.splits,
            "ctx": {"error": ValueError(_NOTHING)},
        }
        raise ValidationError.from_exception_data("ArchitecturesConfig", [problem])
