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
from flows.settings.trials import Part, Selection, TrialsConfig
from flows.stages.finetune import images_spec, named, summary
from flows.trials.images import data_available
from flows.trials.plan import choose, plan
from flows.trials.run import run_trials
from flows.trials.spec import COLUMNS, Trial
from ghn.errors import MissingDataError

if TYPE_CHECKING:
    from flows.tracking.run import StageRun

TRANSFER_COLUMNS: dict[str, pa.DataType] = {**COLUMNS, "source": pa.string()}
"""`source`: the data sets that the hypernetwork was trained on, in order."""


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
    work = described(base, images, transfer)
    (trials,) = plan(
        work,
        work.select.names or best(work.select),
        seed=base.seed,
        images=images_spec(base, images),
        device=base.torch_device(),
    ).values()
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
    source = images.name if missing else " and ".join(learned_from(base.ghn, images.name))
    for row in rows:
        row["source"] = source
    write_rows(paths.TRANSFER, rows, TRANSFER_COLUMNS)
    stage.log_metrics(summary(rows, base.ghn, "transfer"))
    stage.log_artifact(paths.TRANSFER)


def described(base: BaseConfig, images: ImagesConfig, config: TransferConfig) -> TrialsConfig:
    """The stage as an entry of the catalogue of experiments."""
    source = images_spec(base, images)
    return TrialsConfig(
        select=Selection(
            names=config.architectures or (),
            best_of=base.ghn,
            splits=config.splits,
            top_k=config.top_k,
            max_gmacs=config.max_gmacs,
        ),
        inits=named(config.inits, base.ghn),
        seeds=config.seeds,
        parts=(Part(grid=config.grid, train=config.train),),
        images=ImagesSpec(
            name=config.target_name(source.name),
            image_size=source.image_size,
            root=source.root,
            seed=base.seed,
            few_shot=config.labels,
            few_shot_held_out=config.held_out,
            max_test=config.max_test,
        ),
        source_images=source,
        pretrain=config.pretrain,
        beta=config.beta,
        checkpoints=config.checkpoints,
    )


def best(select: Selection) -> list[str]:
    """The best architectures of each split by accuracy without fine-tuning, within the budget."""
    rows = [row for row in read_rows(paths.EVALUATION) if row["split"] in select.splits]
    return choose(rows, select.top_k, select.max_gmacs)


def learned_from(ghn: str, images: str) -> list[str]:
    """The data sets that hypernetwork `ghn` was trained on, in order; where its file does not say,
    `images`.
    """
    from flows.trials.initialise import hypernetwork, source

    return list(hypernetwork(source(ghn)).metadata.get("lineage", [images]))


def absent(trial: Trial, error: str) -> Row:
    """The row of a trial whose data is not there."""
    return identity(
        trial.architecture, split_of(trial.architecture), trial.init, trial.seed, "", error
    ) | {"images": trial.images.name}
