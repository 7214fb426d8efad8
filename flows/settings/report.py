"""Section `report` of params.yaml."""

from __future__ import annotations

from pydantic import Field

from ghn.settings import Settings


class FinetuningTargets(Settings):
    """What fine-tuning from predicted parameters is to gain over random ones."""

    points: float = Field(default=0.1, description="mean gain in test accuracy, a fraction")
    wins: float = Field(default=0.75, ge=0, le=1, description="share of networks that end ahead")
    p_value: float = Field(default=0.01, gt=0, le=1, description="largest, Wilcoxon signed-rank")
    networks: int = Field(default=24, ge=1, description="fewest that are compared")


class Targets(Settings):
    """What the results are held against; what is missed is in the report's first sentence."""

    images: str = Field(description="the targets are for this data set; with others none is judged")
    accuracy: dict[str, float] = Field(
        default_factory=dict,
        description="mean accuracy without training, a fraction, by split (or `torchvision`)",
    )
    finetuning: FinetuningTargets = FinetuningTargets()
    transfer_networks: int = Field(
        default=8, ge=1, description="transfer is not to be behind, over at least so many networks"
    )


class ReportConfig(Settings):
    """Section `report` of params.yaml."""

    title: str = Field(
        default="Parameters predicted by GHN-3", min_length=1, description="heading of the page"
    )
    bins: int = Field(default=25, ge=5, le=100, description="bins of the accuracy histograms")
    targets: Targets | None = Field(
        default=None, description="what the results are held against; null: nothing"
    )
