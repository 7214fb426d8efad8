"""Transfer to another data set from few labels (paper table 7): all layers but the head keep their
initialisation.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pyarrow as pa

from flows.rows.schema import write_rows
from flows.settings import paths
from flows.settings.base import BaseConfig
from flows.settings.fanout import FanOut
from flows.settings.images import ImagesConfig
from flows.settings.transfer import TransferConfig
from flows.training.start import lineage
from flows.trials.initialise import hypernetwork
from flows.trials.inits import source
from flows.trials.outcome import metrics_of, write_outcome
from flows.trials.plan import TrialSetting, entry_rows
from flows.trials.spec import COLUMNS

if TYPE_CHECKING:
    from flows.tracking.run import StageRun

TRANSFER_COLUMNS: dict[str, pa.DataType] = {**COLUMNS, "lineage": pa.list_(pa.string())}
"""`lineage`: the data sets that the hypernetwork was trained on, in order."""


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
    setting = TrialSetting(images.spec(base.seed), base.seed, base.torch_device())
    entry = transfer.entry(base, images)
    found = entry_rows(entry, setting, fanout, "transfer", field="transfer.optional")
    measured = any(row["error"] is None for row in found["main"])
    if found["main"] and not measured:
        print(f"transfer: nothing was measured: {found['main'][0]['error']}", file=sys.stderr)
    ghn = hypernetwork(source(base.ghn)) if measured else None
    learned = list(lineage(ghn, images.name))
    rows = [row | {"lineage": learned} for row in found["main"]]
    write_rows(paths.TRANSFER, rows, TRANSFER_COLUMNS)
    write_outcome("transfer", rows, base.ghn)
    stage.log_metrics(metrics_of(rows, base.ghn, "transfer"))
    stage.log_artifact(paths.TRANSFER)
