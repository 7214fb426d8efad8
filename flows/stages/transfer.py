"""Transfer to another data set from few labels (paper table 7): all layers but the head keep their
initialisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from flows.networks.targets import split_of
from flows.rows.schema import Row, identity, read_rows, write_rows
from flows.settings import paths
from flows.settings.base import BaseConfig
from flows.settings.fanout import FanOut
from flows.settings.images import ImagesConfig, ImagesSpec
from flows.settings.transfer import TransferConfig
from flows.stages.finetune import choose, images_spec, summary
from flows.trials.images import data_available
from flows.trials.outcome import write_outcome
from flows.trials.run import run_trials
from flows.trials.spec import COLUMNS, Trial
from ghn.errors import MissingDataError

if TYPE_CHECKING:
    from flows.tracking.run import StageRun

TRANSFER_COLUMNS: dict[str, pa.DataType] = {**COLUMNS, "source": pa.string()}


def run(
    base: BaseConfig,
    fanout: FanOut,
    images: ImagesConfig,
    transfer: TransferConfig,
    stage: StageRun,
) -> None:
    """Writes results/transfer.parquet: a row per (architecture, initialisation, grid point, seed)
    with its curve.

    Raises:
        MissingDataError: the target's files are absent, and `transfer.optional` is not set. If it
            is, each trial has a row that says so, and the pipeline goes on.
    """
    trials = plan(base, images, transfer)
    missing = data_available(trials[0].images)
    if missing and not transfer.optional:
        raise MissingDataError(
            f"transfer.target: the images of {trials[0].images.name} are not there ({missing}). Put"
            " them there, choose another transfer.target, or set transfer.optional: true to go on"
            " without this stage's results"
        )
    rows = (
        [absent(trial, missing) for trial in trials]
        if missing
        else run_trials(trials, fanout, title="transfer")
    )
    for row in rows:
        row["source"] = images.name
    write_rows(paths.TRANSFER, rows, TRANSFER_COLUMNS)
    write_outcome("transfer", rows, base.ghn)
    stage.log_metrics(summary(rows, base.ghn, "transfer"))
    stage.log_artifact(paths.TRANSFER)


def plan(base: BaseConfig, images: ImagesConfig, config: TransferConfig) -> list[Trial]:
    """The trials of the stage."""
    source = images_spec(base, images)
    target = ImagesSpec(
        name=config.target_name(source.name),
        image_size=source.image_size,
        root=source.root,
        seed=base.seed,
        few_shot=config.labels,
        few_shot_held_out=config.held_out,
        max_test=config.max_test,
    )
    return [
        Trial(
            architecture=architecture,
            init=base.ghn if init == "ghn" else init,
            seed=base.seed + seed,
            images=target,
            source_images=source,
            grid=config.grid,
            finetune=config.train,
            pretrain=config.pretrain,
            beta=config.beta,
            checkpoints=config.checkpoints,
            device=base.torch_device(),
        )
        for architecture in config.architectures or best(config)
        for init in config.inits
        for seed in range(config.seeds)
    ]


def best(config: TransferConfig) -> list[str]:
    """The best architectures of each split by accuracy without fine-tuning, within the budget."""
    rows = [row for row in read_rows(paths.EVALUATION) if row["split"] in config.splits]
    return choose(rows, config.top_k, config.max_gmacs)


def absent(trial: Trial, error: str) -> Row:
    """The row of a trial whose data is not there."""
    return identity(
        trial.architecture, split_of(trial.architecture), trial.init, trial.seed, "", error
    ) | {"images": trial.images.name}
