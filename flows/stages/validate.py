"""Stage validate: proves that the splits of DeepNets-1M on disk are right; any broken graph fails
the pipeline.

Writes reports/validation.json (every check with its counts, and the statistics next to the
published ones of paper table 3) and reports/validation.csv (a line per check), also when a check
fails.
"""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.deepnets.generation.workers import MapItems
from datasets.deepnets.store.files import only_writer, writing
from datasets.deepnets.validation.config import ValidateConfig
from datasets.deepnets.validation.report import ValidationReport, as_json
from datasets.deepnets.validation.validate import validate_splits
from flows.compute.fanout import fan_out
from flows.settings import paths
from ghn.files import atomic_path, remove_leftovers

if TYPE_CHECKING:
    from flows.settings.base import BaseConfig
    from flows.settings.fanout import FanOut
    from flows.tracking.run import StageRun


def run(
    base: BaseConfig,
    fanout: FanOut,
    validate: ValidateConfig,
    stage: StageRun,
) -> None:
    """Validates the splits that `validate` names.

    Raises:
        ValidationError: a check failed; the message names the graphs.
    """

    def map_blocks(split: str) -> MapItems:
        return partial(fan_out, config=fanout, title=f"validate {split}")

    report = validate_splits(paths.DEEPNETS, validate, base.seed, map_blocks)
    _write(report)
    stage.log_metrics(
        {
            "checks": len(report.checks),
            "failed_checks": len(report.failures),
            **{f"{name}_nodes_mean": s.nodes.mean for name, s in report.statistics.items()},
            **{f"{name}_path_mean": s.path.mean for name, s in report.statistics.items()},
        }
    )
    stage.log_artifact(paths.VALIDATION)
    report.raise_if_failed()


def _write(report: ValidationReport) -> None:
    table = paths.VALIDATION.with_suffix(".csv")
    with only_writer(paths.VALIDATION.with_name(".validation.lock"), "another process validates"):
        remove_leftovers(paths.VALIDATION, table)
        with writing(paths.VALIDATION), atomic_path(paths.VALIDATION) as temporary:
            temporary.write_text(json.dumps(as_json(report), indent=1) + "\n")
        with writing(table), atomic_path(table) as temporary:
            _write_table(report, temporary)


def _write_table(report: ValidationReport, path: Path) -> None:
    """Writes a line per check."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "check", "checked", "failed", "examples", "note"])
        for check in report.checks:
            row = (
                check.split,
                check.check,
                check.checked,
                check.failed,
                " ".join(check.examples),
                check.note,
            )
            writer.writerow(row)
