"""Fine-tunes the best evaluation architectures from predicted and from random parameters (paper
table 2, fig. 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from flows.rows.results import Row, read_rows, write_rows
from flows.settings import paths
from flows.trials.images import ImagesSpec
from flows.trials.run import run_trials
from flows.trials.spec import COLUMNS, Grid, Trial
from flows.trials.statistics import compare
from ghn.errors import DamagedFileError
from ghn.finetune import FinetuneConfig

if TYPE_CHECKING:
    from flows.params import Params
    from flows.tracking.run import StageRun


class FinetuneStageConfig(BaseModel):
    """What is fine-tuned, from what, how, and on which grid; the grid is the same for every
    initialisation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: int | None = Field(
        default=2,
        ge=1,
        description="architectures per split, by accuracy without fine-tuning; null: all",
    )
    max_gmacs: float | None = Field(
        default=0.1,
        gt=0,
        description="only networks whose forward pass costs at most so much an image; null: any",
    )
    inits: tuple[str, ...] = Field(
        default=("ghn", "randinit"),
        min_length=1,
        description=(
            "`ghn`: the hypernetwork base.ghn; one of randinit, orthogonal, gradinit, metainit,"
            " fixup; or another hypernetwork by name"
        ),
    )
    seeds: int = Field(default=1, ge=1, description="seeds per architecture and initialisation")
    grid: Grid = Field(default_factory=Grid)
    train: FinetuneConfig = Field(
        default_factory=FinetuneConfig, description="one point's training but the grid's fields"
    )
    beta: float = Field(
        default=1e-5, ge=0, description="noise on predicted parameters (section 5.2)"
    )
    max_train: int | None = Field(default=None, ge=1, description="only so many training images")
    max_val: int | None = Field(default=1000, ge=1, description="only so many validation images")
    max_test: int | None = Field(default=1000, ge=1, description="only so many test images")
    checkpoints: bool = Field(
        default=False, description="long runs: keep the state at every evaluation"
    )


def run(params: Params, run: StageRun) -> None:
    """Writes results/finetune.parquet: a row per (architecture, initialisation, lr, seed) with its
    curve.
    """
    config = params.finetune
    spec = images_spec(params, config.max_train, config.max_val, config.max_test)
    chosen = choose(read_rows(paths.EVALUATION), config)
    trials = [
        Trial(
            architecture=architecture,
            init=params.base.ghn if init == "ghn" else init,
            seed=params.base.seed + seed,
            images=spec,
            grid=config.grid,
            finetune=config.train,
            beta=config.beta,
            checkpoints=config.checkpoints,
            device=device(params),
        )
        for architecture in chosen
        for init in config.inits
        for seed in range(config.seeds)
    ]
    rows = run_trials(trials, params.fanout)
    write_rows(paths.FINETUNE, rows, COLUMNS)
    run.log_metrics(summary(rows, params.base.ghn))
    run.log_artifact(paths.FINETUNE)


def choose(rows: Sequence[Row], config: FinetuneStageConfig) -> list[str]:
    """Ids of the architectures to fine-tune: of each split the `top_k` best by accuracy without
    fine-tuning.

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
            (row for row in usable if row["split"] == split), key=lambda row: -row["accuracy"]
        )
        taken = 0
        for row in ranked:
            if config.top_k is not None and taken == config.top_k:
                break
            identifier = row["architecture"]
            if config.max_gmacs is not None and row["gmacs"] > config.max_gmacs:
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
    params: Params, max_train: int | None, max_val: int | None, max_test: int | None
) -> ImagesSpec:
    """The images of the pipeline, cut down for this stage."""
    images = params.images
    return ImagesSpec(
        name=images.name,
        image_size=images.image_size,
        root=images.root,
        val_fraction=images.val_fraction,
        test_fraction=images.test_fraction,
        seed=params.base.seed,
        max_train=max_train,
        max_val=max_val,
        max_test=max_test,
        stream=images.stream,
        workers=images.workers,
    )


def device(params: Params) -> str:
    """Where trials run."""
    return params.base.torch_device()
