"""Section `train` of params.yaml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from datasets.deepnets.space.widths import MetaBatchConfig
from flows.settings.architectures import NETWORKS, EvaluationSplit
from flows.settings.phases import PhaseConfig, begun, check_phases
from flows.settings.population import PopulationEntry
from ghn.errors import ConfigError
from ghn.settings import Once, Seed
from ghn.train.config import TrainConfig

if TYPE_CHECKING:
    from ghn.models import GHNConfig


_KEPT = ("val", *get_args(EvaluationSplit))
"""Splits that choices are made and results measured by."""


class TrainStageConfig(TrainConfig):
    """Section `train` of params.yaml: the recipe, and what it is applied to."""

    # a section may leave to `base` what a recipe must know
    seed: Seed | None = Field(  # type: ignore[assignment]
        default=None,
        description=(
            "of the order of images and architectures, and of fresh weights; null: base.seed"
        ),
    )
    split: str = Field(
        default="train",
        description=(
            "split of DeepNets-1M to train on, none that is measured by; its rules: generate.splits"
        ),
    )
    variant: str = Field(
        default="ghn3-t", description="a hypernetwork of the paper: one of `ghn.VARIANTS`"
    )
    ghn: dict[str, Any] = Field(
        default_factory=dict, description="fields of GHNConfig that differ from the variant"
    )
    initial: str | None = Field(
        default=None,
        description=(
            "a trained hypernetwork to go on from with a new schedule, as `ghn.from_pretrained`"
            " takes it: a file, a name, models:/name@alias; null: fresh weights. It must be of this"
            " variant; where its number of classes is another, what makes class heads starts anew"
        ),
    )
    output_gain: float = Field(
        default=1.0,
        gt=0,
        description=(
            "factor on the initial weights of the last layers; GHN-3 divides them by 5, which keeps"
            " the first steps of large hypernetworks finite, and 5 undoes that: small ones begin to"
            " learn much sooner"
        ),
    )
    distance_gain: float = Field(
        default=1.0,
        gt=0,
        description=(
            "factor on the embeddings of the distance from the input when a run starts, also from"
            " `initial`: what tells layers of one shape apart. Above 1 for a hypernetwork that"
            " predicts them all alike"
        ),
    )
    minutes: float | None = Field(
        default=None,
        gt=0,
        description=(
            "the most that the steps may take; the run then ends early, its learning rate where"
            " `schedule` has it after so many of `steps`. How many that are depends on the machine:"
            " only runs without a budget give equal bytes. null: all steps"
        ),
    )
    live: bool = Field(
        default=False,
        description=(
            "also write dvclive/ while it runs, for DVC's extension in an editor (needs DVCLive)"
        ),
    )
    processes: int = Field(
        default=1,
        ge=1,
        description=(
            "ranks that `ghn train` starts here, each with its share of every meta-batch: one per"
            " core of a CPU; under torchrun its own count holds"
        ),
    )
    ranks_per_gpu: int = Field(
        default=1,
        ge=1,
        description=(
            "of `processes`, how many may share a GPU: 3 or 4 for networks of CIFAR's size, which"
            " cannot fill one (gradients are then averaged through gloo); 1 for ImageNet's (NCCL)"
        ),
    )
    graph_workers: int = Field(
        default=0, ge=0, description="processes that build graphs ahead, per rank"
    )
    networks: MetaBatchConfig = Field(
        default_factory=MetaBatchConfig, description="how networks are sized"
    )
    population: tuple[PopulationEntry, ...] | None = Field(
        default=None,
        min_length=1,
        description=(
            "networks to train on, mixed by weights (docs/own-networks.md): names and patterns,"
            " your own, deepnets1m; null: train.split alone"
        ),
    )
    phases: tuple[PhaseConfig, ...] = Field(
        default=(),
        description=(
            "stretches with image size, widths, networks and batches of their own, in order; one"
            " learning rate and one optimizer go through all of them. Empty: the run is one. A run"
            " of fewer steps leaves out the last"
        ),
    )
    curve_architectures: int = Field(
        default=16, ge=0, description="unseen architectures of val per evaluation"
    )
    curve_test: bool = Field(
        default=False, description="evaluate test architectures along the way too"
    )
    curve_torchvision: Annotated[Once[str], NETWORKS] = Field(
        default=(), description="torchvision models per evaluation"
    )
    curve_images: int = Field(
        default=256, ge=2, description="validation images per evaluation, in batches of 64"
    )

    @field_validator("split")
    @classmethod
    def _is_not_measured_by(cls, split: str) -> str:
        if split in _KEPT:
            raise ValueError(
                f"{', '.join(_KEPT)} are kept for measuring: what is trained on them says nothing"
                " of unseen networks; train on train, or on a split of your own (generate.splits)"
            )
        return split

    @field_validator("variant")
    @classmethod
    def _is_known(cls, variant: str) -> str:
        _check_hypernetwork(variant, {})
        return variant

    @field_validator("ghn")
    @classmethod
    def _suits_the_variant(cls, ghn: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "num_classes" in ghn:
            raise ValueError("num_classes is that of the images; leave it out")
        if "variant" in info.data:  # as it is not where it was refused
            _check_hypernetwork(info.data["variant"], ghn)
        return ghn

    @model_validator(mode="after")
    def _check_phases(self) -> TrainStageConfig:
        check_phases(self.phases, self.steps)
        return self

    def recipe_with(self, seed: int) -> TrainConfig:
        """The recipe alone; the batch sizes are those of the last phase.

        Args:
            seed: where the section names none.
        """
        fields = {name: getattr(self, name) for name in TrainConfig.model_fields}
        for phase in begun(self.phases, self.steps)[-1:]:
            sizes = {"batch_size": phase.batch_size, "meta_batch_size": phase.meta_batch_size}
            fields |= {name: size for name, size in sizes.items() if size is not None}
        return TrainConfig(**(fields | {"seed": seed if self.seed is None else self.seed}))

    def hypernetwork(self, num_classes: int) -> GHNConfig:
        """The configuration of the hypernetwork."""
        return _hypernetwork(self.variant, self.ghn, num_classes)


def _hypernetwork(variant: str, changes: dict[str, Any], num_classes: int) -> GHNConfig:
    """A variant with some of its fields changed.

    Raises:
        ConfigError: no such variant, or a field is unknown or out of range.
    """
    from ghn.models import GHNConfig

    return GHNConfig.from_dict(GHNConfig.variant(variant, num_classes).to_dict() | changes)


def _check_hypernetwork(variant: str, changes: dict[str, Any]) -> None:
    """Raises ValueError where `_hypernetwork` raises ConfigError."""
    try:
        _hypernetwork(variant, changes, num_classes=1000)
    except ConfigError as error:
        raise ValueError(str(error)) from None
