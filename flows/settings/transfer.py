"""Section `transfer` of params.yaml, and the entry of the catalogue that it is."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator

from flows.settings.architectures import TargetSplit
from flows.settings.base import BaseConfig
from flows.settings.images import ImagesConfig, ImagesSpec, count_held_out
from flows.settings.trials import Grid, Part, PointTraining, Selection, TrialsEntry
from ghn.finetune.config import FinetuneConfig
from ghn.settings import Once, Settings


class TransferConfig(Settings):
    """The section says where to transfer to, and how; the grid is the same for every
    initialisation.
    """

    target: str = Field(
        default="auto",
        description="image data set; auto: CIFAR-10, or digits where CIFAR-10 is the source",
    )
    root: str | None = Field(
        default=None,
        description=(
            "directory of the target's data; null: GHN_DATA_ROOT or ../shared/data, wherever"
            " images.root is"
        ),
    )
    labels: int = Field(
        default=1000, ge=10, description="labels of the target in all, training and choices"
    )
    held_out: float = Field(
        default=0.2, gt=0, lt=1, description="share of the labels on which choices are made"
    )
    architectures: Once[str] | None = Field(
        default=None, description="ids; null: the best by accuracy without fine-tuning"
    )
    splits: Once[TargetSplit] = Field(
        default=("test", "torchvision"), description="where the best are looked for"
    )
    top_k: int = Field(default=1, ge=1, description="so many of each split")
    max_gmacs: float | None = Field(default=0.1, gt=0, description="as in section finetune")
    inits: Once[str] = Field(default=("ghn", "randinit", "orthogonal"), min_length=1)
    seeds: int = Field(default=3, ge=1)
    grid: Grid = Field(default_factory=Grid)
    train: PointTraining = Field(default_factory=FinetuneConfig)
    pretrain: FinetuneConfig | None = Field(
        default=None,
        description="train so on the source before the transfer (table 7, second block)",
    )
    beta: float = Field(default=1e-5, ge=0)
    max_test: int | None = Field(default=2000, ge=1)
    checkpoints: bool = False
    optional: bool = Field(
        default=False,
        description=(
            "where the target's images are absent: true: rows that say so, false: the stage fails"
        ),
    )

    @field_validator("held_out")
    @classmethod
    def _leaves_some(cls, share: float, info: ValidationInfo) -> float:
        if "labels" in info.data:  # as it is not where it was refused
            count_held_out(info.data["labels"], share)
        return share

    def target_name(self, source: str) -> str:
        """The data set that is transferred to."""
        if self.target != "auto":
            return self.target
        return "digits" if source == "cifar10" else "cifar10"

    def entry(self, base: BaseConfig, images: ImagesConfig) -> TrialsEntry:
        """Describes what the stage trains, as an entry of the catalogue."""
        best = Selection(
            best_of=base.ghn, splits=self.splits, top_k=self.top_k, max_gmacs=self.max_gmacs
        )
        return TrialsEntry(
            title="Transfer to another data set from few labels",
            paper="table 7",
            difference="the networks, the target and the budget are those of section `transfer`",
            select=Selection(names=self.architectures) if self.architectures else best,
            inits=base.named(self.inits),
            seeds=self.seeds,
            parts=(Part(grid=self.grid, train=self.train),),
            images=ImagesSpec(
                name=self.target_name(images.name),
                image_size=images.image_size,
                root=self.root,
                seed=base.seed,
                few_shot=self.labels,
                few_shot_held_out=self.held_out,
                max_test=self.max_test,
            ),
            source_images=images.spec(base.seed),
            pretrain=self.pretrain,
            beta=self.beta,
            checkpoints=self.checkpoints,
            optional=self.optional,
        )
