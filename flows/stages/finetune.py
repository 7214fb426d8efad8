"""Fine-tunes the best evaluation architectures from predicted and from random parameters (paper
table 2, fig. 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flows.rows.schema import Row, read_rows, write_rows
from flows.settings import paths
from flows.settings.base import BaseConfig
from flows.settings.fanout import FanOut
from flows.settings.finetune import FinetuneStageConfig
from flows.settings.images import ImagesConfig, ImagesSpec
from flows.settings.trials import Part, Selection, TrialsConfig
from flows.trials.plan import choose, plan
from flows.trials.run import run_trials
from flows.trials.spec import COLUMNS
from flows.trials.statistics import compare

if TYPE_CHECKING:
    from flows.tracking.run import StageRun


def run(
    base: BaseConfig,
    fanout: FanOut,
    images: ImagesConfig,
    finetune: FinetuneStageConfig,
    stage: StageRun,
) -> None:
    """Writes results/finetune.parquet: a row per (architecture, initialisation, lr, seed) with its
    curve.
    """
    work = described(base, images, finetune)
    select = work.select
    chosen = choose(read_rows(paths.EVALUATION), select.top_k, select.max_gmacs)
    (trials,) = plan(
        work, chosen, seed=base.seed, images=images_spec(base, images), device=base.torch_device()
    ).values()
    rows = run_trials(trials, fanout, title="finetune")
    write_rows(paths.FINETUNE, rows, COLUMNS)
    stage.log_metrics(summary(rows, base.ghn))
    stage.log_artifact(paths.FINETUNE)


def described(base: BaseConfig, images: ImagesConfig, config: FinetuneStageConfig) -> TrialsConfig:
    """The stage as an entry of the catalogue of experiments."""
    return TrialsConfig(
        select=Selection(best_of=base.ghn, top_k=config.top_k, max_gmacs=config.max_gmacs),
        inits=named(config.inits, base.ghn),
        seeds=config.seeds,
        parts=(Part(grid=config.grid, train=config.train),),
        images=images_spec(base, images, config.max_train, config.max_val, config.max_test),
        beta=config.beta,
        checkpoints=config.checkpoints,
        samples=config.samples,
    )


def named(inits: Sequence[str], ghn: str) -> tuple[str, ...]:
    """`inits` with the name of the pipeline's hypernetwork in place of `ghn`."""
    return tuple(ghn if init == "ghn" else init for init in inits)


def summary(rows: Sequence[Row], ghn: str, stage: str = "finetune") -> Mapping[str, float]:
    """Metrics for MLflow and DVC: mean test accuracy per initialisation, and the paired comparison
    with RandInit.
    """
    metrics: dict[str, float] = {}
    for init in dict.fromkeys(row["ghn"] for row in rows):
        tested = [
            row["test_accuracy"]
            for row in rows
            if row["ghn"] == init and row.get("test_accuracy") is not None
        ]
        if tested:
            name = "ghn" if init == ghn else init
            metrics[f"{stage}_{name}_test_accuracy"] = sum(tested) / len(tested)
    metrics[f"{stage}_failed"] = float(sum(row["error"] is not None for row in rows))
    if (comparison := compare(rows, ghn, "randinit")) is not None:
        metrics[f"{stage}_gain_over_randinit"] = comparison.mean_difference
        metrics[f"{stage}_wins_over_randinit"] = comparison.wins
    return metrics


def images_spec(
    base: BaseConfig,
    images: ImagesConfig,
    max_train: int | None = None,
    max_val: int | None = None,
    max_test: int | None = None,
) -> ImagesSpec:
    """The images of the pipeline, cut down for this stage."""
    return ImagesSpec(
        name=images.name,
        image_size=images.image_size,
        root=images.root,
        val_fraction=images.val_fraction,
        test_fraction=images.test_fraction,
        seed=base.seed,
        max_train=max_train,
        max_val=max_val,
        max_test=max_test,
        stream=images.stream,
        workers=images.workers,
    )
