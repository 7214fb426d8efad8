"""What a hypernetwork is trained on besides, or instead of, DeepNets-1M: entries of
`train.population` in params.yaml.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from ghn.settings import Settings

DEEPNETS = "deepnets1m"
"""The entry that means the split `train.split`."""


class PopulationEntry(Settings):
    """Networks that are drawn together."""

    networks: str = Field(
        min_length=1,
        description=(
            "a name of `ghn list` or a pattern of names (resnet*, timm/resnet*); FILE.py:NAME or"
            " MODULE:NAME of a class or function that makes a network of your own; or deepnets1m:"
            " the architectures of train.split"
        ),
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        description=(
            "how often networks of this entry are drawn, against the weights of the others; within"
            " an entry all are drawn alike"
        ),
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="names, or patterns of names, that are left out"
    )
    max_gmacs: float | None = Field(
        default=None,
        gt=0,
        description=(
            "networks of more multiply-accumulates per image, in units of 10^9, are left out; for"
            " deepnets1m see generate.splits"
        ),
    )

    @model_validator(mode="after")
    def _of_names_alone(self) -> PopulationEntry:
        if self.networks == DEEPNETS and (self.exclude or self.max_gmacs is not None):
            raise ValueError(
                "exclude and max_gmacs do not hold for deepnets1m; generate.splits and max_cost of"
                " train.phases bound its networks"
            )
        return self
