"""Fine-tunes the best evaluation architectures from predicted and from random parameters (paper
table 2, fig. 6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.rows.schema import write_rows
from flows.settings import paths
from flows.settings.base import BaseConfig
from flows.settings.fanout import FanOut
from flows.settings.finetune import FinetuneStageConfig
from flows.settings.images import ImagesConfig
from flows.trials.outcome import metrics_of, write_curves, write_outcome
from flows.trials.plan import TrialSetting, entry_rows
from flows.trials.spec import COLUMNS

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
    setting = TrialSetting(images.spec(base.seed), base.seed, base.torch_device())
    rows = entry_rows(finetune.entry(base, images), setting, fanout, "finetune")["main"]
    write_rows(paths.FINETUNE, rows, COLUMNS)
    write_curves(paths.FINETUNE_CURVES, rows, base.ghn)
    write_outcome("finetune", rows, base.ghn)
    stage.log_metrics(metrics_of(rows, base.ghn, "finetune"))
    for path in (paths.FINETUNE, paths.FINETUNE_CURVES):
        stage.log_artifact(path)
