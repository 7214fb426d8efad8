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
from flows.trials.outcome import write_curves, write_outcome
from flows.trials.run import run_trials
from flows.trials.spec import COLUMNS, Trial
from flows.trials.statistics import compare
from ghn.errors import DamagedFileError

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
    config = finetune
    spec = images_spec(base, images, config.max_train, config.max_val, config.max_test)
    trials = [
        Trial(
            architecture=architecture,
            init=base.ghn if init == "ghn" else init,
            seed=base.seed + seed,
            images=spec,
            grid=config.grid,
            finetune=config.train,
            beta=config.beta,
            checkpoints=config.checkpoints,
            device=base.torch_device(),
        )
        for architecture in choose(read_rows(paths.EVALUATION), config.top_k, config.max_gmacs)
        for init in config.inits
        for seed in range(config.seeds)
    ]
    rows = run_trials(trials, fanout, title="finetune")
    write_rows(paths.FINETUNE, rows, COLUMNS)
    write_curves(paths.FINETUNE_CURVES, rows, base.ghn)
    write_outcome("finetune", rows, base.ghn)
    stage.log_metrics(summary(rows, base.ghn))
    for path in (paths.FINETUNE, paths.FINETUNE_CURVES):
        stage.log_artifact(path)


def choose(rows: Sequence[Row], top_k: int | None, max_gmacs: float | None) -> list[str]:
    """Ids of the architectures to fine-tune: of each split the `top_k` best by accuracy without
    fine-tuning, on validation images: the test images are for what comes out.

    Those that cost more than `max_gmacs` are passed over, so that a laptop's budget is spent on
    several networks rather than on one.

    Raises:
        DamagedFileError: no row has an accuracy.
    """
    chosen: list[str] = []
    usable = [row for row in rows if row["error"] is None]
    if not usable:
        raise DamagedFileError(
            f"{paths.EVALUATION}: no architecture has an accuracy; see its column `error`"
        )
    for split in dict.fromkeys(row["split"] for row in usable):
        ranked = sorted(
            (row for row in usable if row["split"] == split), key=lambda row: -row["val_accuracy"]
        )
        taken = 0
        for row in ranked:
            if top_k is not None and taken == top_k:
                break
            identifier = row["architecture"]
            if max_gmacs is not None and row["gmacs"] > max_gmacs:
                continue
            if identifier not in chosen:
                chosen.append(identifier)
                taken += 1
    return chosen


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
