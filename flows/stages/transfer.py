"""Transfer to another data set from few labels (paper table 7): all layers but the head keep their
initialisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from flows.networks.targets import split_of
from flows.rows.results import Row, identity, read_rows, write_rows
from flows.settings import paths
from flows.stages.finetune import FinetuneStageConfig, choose, device, images_spec, summary
from flows.trials.images import ImagesSpec, data_available
from flows.trials.run import run_trials
from flows.trials.spec import COLUMNS, Grid, Trial
from ghn.finetune import FinetuneConfig

if TYPE_CHECKING:
    from flows.params import Params
    from flows.tracking.run import StageRun

TRANSFER_COLUMNS: dict[str, pa.DataType] = {**COLUMNS, "source": pa.string()}


class TransferConfig(BaseModel):
    """Where to transfer to and how; the grid is the same for every initialisation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = Field(
        default="auto",
        description="image data set; auto: CIFAR-10, or digits where CIFAR-10 is the source",
    )
    labels: int = Field(
        default=1000, ge=10, description="labels of the target in all, training and choices"
    )
    held_out: float = Field(
        default=0.2, gt=0, lt=1, description="share of the labels on which choices are made"
    )
    architectures: tuple[str, ...] | None = Field(
        default=None, description="ids; null: the best by accuracy without fine-tuning"
    )
    splits: tuple[str, ...] = Field(
        default=("test", "torchvision"), description="where the best are looked for"
    )
    top_k: int = Field(default=1, ge=1, description="so many of each split")
    max_gmacs: float | None = Field(default=0.1, gt=0, description="as in section finetune")
    inits: tuple[str, ...] = Field(default=("ghn", "randinit", "orthogonal"), min_length=1)
    seeds: int = Field(default=3, ge=1)
    grid: Grid = Field(default_factory=Grid)
    train: FinetuneConfig = Field(default_factory=FinetuneConfig)
    pretrain: FinetuneConfig | None = Field(
        default=None,
        description="train so on the source before the transfer (table 7, second block)",
    )
    beta: float = Field(default=1e-5, ge=0)
    max_test: int | None = Field(default=2000, ge=1)
    checkpoints: bool = False

    def target_name(self, source: str) -> str:
        """The data set that is transferred to."""
        if self.target != "auto":
            return self.target
        return "digits" if source == "cifar10" else "cifar10"


def run(params: Params, run: StageRun) -> None:
    """Writes results/transfer.parquet: a row per (architecture, initialisation, grid point, seed)
    with its curve.

    Where the target's files are absent each trial has a row that says so, and the pipeline goes on.
    """
    config = params.transfer
    source = images_spec(params, None, None, None)
    target = config.target_name(source.name)
    spec = ImagesSpec(
        name=target,
        image_size=source.image_size,
        root=source.root,
        seed=params.base.seed,
        few_shot=config.labels,
        few_shot_held_out=config.held_out,
        max_test=config.max_test,
    )
    trials = [
        Trial(
            architecture=architecture,
            init=params.base.ghn if init == "ghn" else init,
            seed=params.base.seed + seed,
            images=spec,
            source_images=source,
            grid=config.grid,
            finetune=config.train,
            pretrain=config.pretrain,
            beta=config.beta,
            checkpoints=config.checkpoints,
            device=device(params),
        )
        for architecture in config.architectures or best(config)
        for init in config.inits
        for seed in range(config.seeds)
    ]
    missing = data_available(spec)
    rows = (
        [absent(trial, missing) for trial in trials]
        if missing
        else run_trials(trials, params.fanout, title="transfer")
    )
    for row in rows:
        row["source"] = source.name
    write_rows(paths.TRANSFER, rows, TRANSFER_COLUMNS)
    run.log_metrics(summary(rows, params.base.ghn, "transfer"))
    run.log_artifact(paths.TRANSFER)


def best(config: TransferConfig) -> list[str]:
    """The best architectures of each split by accuracy without fine-tuning, within the budget."""
    rows = [row for row in read_rows(paths.EVALUATION) if row["split"] in config.splits]
    choice = FinetuneStageConfig(top_k=config.top_k, max_gmacs=config.max_gmacs)
    return choose(rows, choice)


def absent(trial: Trial, error: str) -> Row:
    """The row of a trial whose data is not there."""
    return identity(
        trial.architecture, split_of(trial.architecture), trial.init, trial.seed, "", error
    ) | {"images": trial.images.name}
