"""Work on trials, described: networks trained over a grid from several initialisations.

Stages finetune and transfer and the experiments of the paper are such descriptions;
`flows.trials.plan` makes trials of them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from flows.settings.architectures import EvaluationSplit
from flows.settings.finetune import Grid
from flows.settings.images import ImagesSpec
from ghn.baselines.config import GradInitConfig, MetaInitConfig, NIOConfig
from ghn.finetune.config import FinetuneConfig


class Selection(BaseModel):
    """Which architectures: names, or the best by accuracy without fine-tuning within a budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...] = ()
    best_of: str | None = Field(default=None, description="hypernetwork whose accuracies decide")
    splits: tuple[EvaluationSplit | Literal["torchvision"], ...] = (
        "test",
        "wide",
        "deep",
        "dense",
        "bnfree",
        "torchvision",
    )
    top_k: int | None = Field(default=1, ge=1)
    max_gmacs: float | None = Field(default=None, gt=0)
    cheapest: int | None = Field(
        default=None, ge=1, description="so many of `splits` (DeepNets-1M) of least cost"
    )
    primitive: str | None = Field(
        default=None, description="with `cheapest`: only networks that have this node type"
    )


class Part(BaseModel):
    """One training recipe with its grid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "main"
    grid: Grid = Grid()
    train: FinetuneConfig = FinetuneConfig()
    architectures: tuple[str, ...] | None = Field(
        default=None, description="only these of the selection"
    )


class TrialsConfig(BaseModel):
    """Which networks are trained, from what, on what and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    select: Selection
    inits: tuple[str, ...] = Field(min_length=1)
    seeds: int = Field(default=3, ge=1)
    parts: tuple[Part, ...] = Field(min_length=1)
    images: ImagesSpec | None = Field(default=None, description="by default those of the profile")
    source_images: ImagesSpec | None = Field(
        default=None, description="transfer: what the hypernetworks know"
    )
    pretrain: FinetuneConfig | None = None
    keep_logits: bool = False
    samples: int = Field(
        default=0, ge=0, description="test images whose answers are kept, with first-layer filters"
    )
    gradinit: GradInitConfig = GradInitConfig()
    metainit: MetaInitConfig = MetaInitConfig()
    nio: NIOConfig = NIOConfig()
    beta: float = Field(
        default=1e-5, ge=0, description="noise on predicted parameters (section 5.2)"
    )
    checkpoints: bool = Field(
        default=False, description="long runs: keep the state at every evaluation"
    )
