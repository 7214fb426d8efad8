"""Entries that train networks, as data: which networks, from what, how, and on which grid.

The stages finetune and transfer are such entries, made from their sections of params.yaml; the
others are in the profiles of the experiments (`flows.experiments.catalogue`).
"""

from __future__ import annotations

from itertools import product
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from flows.settings.architectures import TargetSplit
from flows.settings.images import ImagesSpec
from ghn.baselines.config import GradInitConfig, MetaInitConfig, NIOConfig
from ghn.finetune.config import FinetuneConfig
from ghn.settings import Once, Settings


class Grid(Settings):
    """The points that every initialisation is tuned over."""

    lr: Once[Annotated[float, Field(gt=0)]] = Field(default=(0.1, 0.01), min_length=1)
    weight_decay: Once[Annotated[float, Field(ge=0)]] = Field(default=(3e-5,), min_length=1)
    optimizer: Once[Literal["sgd", "adamw"]] = Field(default=("sgd",), min_length=1)

    def points(self, base: FinetuneConfig) -> list[FinetuneConfig]:
        """One configuration per point."""
        names = ("lr", "weight_decay", "optimizer")
        values = product(self.lr, self.weight_decay, self.optimizer)
        return [
            FinetuneConfig(**{**base.model_dump(), **dict(zip(names, point, strict=True))})
            for point in values
        ]


def _leaves_the_grid_alone(train: FinetuneConfig) -> FinetuneConfig:
    """Refuses a value that the grid would replace, without a word, by its own."""
    default = FinetuneConfig()
    for name in Grid.model_fields:
        if (value := getattr(train, name)) != getattr(default, name):
            raise ValueError(f"{name} is tuned: write `grid: {{{name}: [{value}]}}` beside `train`")
    return train


PointTraining = Annotated[FinetuneConfig, AfterValidator(_leaves_the_grid_alone)]
"""How each point of a grid is trained: all but the fields of the grid."""


class Described(Settings):
    """Every entry of the catalogue says this of itself."""

    title: str
    paper: str = Field(description="tables and figures of the paper")
    difference: str = Field(description="how the setting differs from the paper's, in one line")
    needs: tuple[str, ...] = Field(
        default=(), description="experiments whose results this one reads"
    )


class Selection(Settings):
    """Which architectures: names, or the best by accuracy without fine-tuning within a budget."""

    names: Once[str] = ()
    best_of: str | None = Field(default=None, description="hypernetwork whose accuracies decide")
    splits: Once[TargetSplit] = get_args(TargetSplit)
    top_k: int | None = Field(default=1, ge=1)
    max_gmacs: float | None = Field(default=None, gt=0)
    cheapest: int | None = Field(
        default=None, ge=1, description="so many of `splits` (DeepNets-1M) of least cost"
    )
    primitive: str | None = Field(
        default=None, description="with `cheapest`: only networks that have this node type"
    )


class Part(Settings):
    """One training recipe with its grid."""

    name: str = "main"
    grid: Grid = Grid()
    train: PointTraining = FinetuneConfig()
    architectures: Once[str] | None = Field(default=None, description="only these of the selection")


def _named_apart(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Refuses two parts of one name, of whose rows only the last one's would be kept."""
    names = [part.name for part in parts]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"several parts are named {', '.join(twice)}: give each its own `name`")
    return parts


class Larger(Settings):
    """A larger network of the same family, which is trained first so that others start with part of
    its weights (initialisation `selection`).
    """

    architecture: str
    train: FinetuneConfig = FinetuneConfig()


class TrialsEntry(Described):
    """Trains networks from several initialisations (`flows.trials`)."""

    kind: Literal["trials"] = "trials"
    select: Selection
    inits: Once[str] = Field(min_length=1)
    seeds: int = Field(default=3, ge=1)
    tune_each_seed: bool = Field(
        default=True,
        description="false: later seeds train at the point that the first has chosen, no other",
    )
    parts: Annotated[tuple[Part, ...], AfterValidator(_named_apart)] = Field(min_length=1)
    images: ImagesSpec | None = Field(default=None, description="by default those of the profile")
    source_images: ImagesSpec | None = Field(
        default=None, description="transfer: what the hypernetworks know"
    )
    pretrain: FinetuneConfig | None = Field(
        default=None, description="transfer: training on the source first"
    )
    larger: Larger | None = Field(
        default=None,
        description="`selection`: the network whose weights are taken; trained from each seed",
    )
    beta: float = Field(default=1e-5, ge=0, description="noise on predicted parameters")
    checkpoints: bool = Field(default=False, description="keep the state at every evaluation")
    optional: bool = Field(
        default=False,
        description="where the images are absent: true: rows that say so, false: it fails",
    )
    keep_logits: bool = False
    samples: int = Field(
        default=0, ge=0, description="test images whose answers are kept, with first-layer filters"
    )
    gradinit: GradInitConfig = GradInitConfig()
    metainit: MetaInitConfig = MetaInitConfig()
    nio: NIOConfig = NIOConfig()
