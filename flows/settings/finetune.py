"""Section `finetune` of params.yaml, and the entry of the catalogue that it is."""

from __future__ import annotations

from pydantic import Field

from flows.settings.base import BaseConfig
from flows.settings.images import ImagesConfig
from flows.settings.trials import Grid, Part, PointTraining, Selection, TrialsEntry
from ghn.finetune.config import FinetuneConfig
from ghn.settings import Once, Settings


class FinetuneStageConfig(Settings):
    """The section says what is fine-tuned, from what, how, and on which grid; the grid is the same
    for every initialisation.
    """

    top_k: int | None = Field(
        default=2,
        ge=1,
        description="so many of each split, by validation accuracy without training; null: all",
    )
    max_gmacs: float | None = Field(
        default=0.1,
        gt=0,
        description="only networks whose forward pass costs at most so much an image; null: any",
    )
    inits: Once[str] = Field(
        default=("ghn", "randinit"),
        min_length=1,
        description=(
            "`ghn`: the hypernetwork base.ghn; one of randinit, orthogonal, gradinit, nio,"
            " metainit, fixup; another hypernetwork by name; <hypernetwork>+orth<n>: its weights"
            " orthogonalised from layer n on; selection=<file>: those of a larger trained network"
        ),
    )
    seeds: int = Field(default=1, ge=1, description="seeds per architecture and initialisation")
    grid: Grid = Field(default_factory=Grid)
    train: PointTraining = Field(
        default_factory=FinetuneConfig, description="one point's training but the grid's fields"
    )
    beta: float = Field(
        default=1e-5, ge=0, description="noise on predicted parameters (section 5.2)"
    )
    max_train: int | None = Field(default=None, ge=1, description="only so many training images")
    max_val: int | None = Field(default=1000, ge=1, description="only so many validation images")
    max_test: int | None = Field(default=1000, ge=1, description="only so many test images")
    samples: int = Field(
        default=12,
        ge=0,
        description=(
            "test images whose predicted classes before and after are kept for the report, with the"
            " filters of the first layer; 0: none"
        ),
    )
    checkpoints: bool = Field(
        default=False, description="long runs: keep the state at every evaluation"
    )

    def entry(self, base: BaseConfig, images: ImagesConfig) -> TrialsEntry:
        """Describes what the stage trains, as an entry of the catalogue."""
        limits = self.model_dump(include={"max_train", "max_val", "max_test"})
        return TrialsEntry(
            title="Fine-tuning the best networks of each split",
            paper="table 2, fig. 6",
            difference="the networks and the budget are those of section `finetune`",
            select=Selection(best_of=base.ghn, top_k=self.top_k, max_gmacs=self.max_gmacs),
            inits=base.named(self.inits),
            seeds=self.seeds,
            parts=(Part(grid=self.grid, train=self.train),),
            images=images.spec(base.seed, **limits),
            beta=self.beta,
            checkpoints=self.checkpoints,
            samples=self.samples,
        )
