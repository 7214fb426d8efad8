"""Runs a stage as `ghn <stage>` does: with params.yaml, in a run of MLflow."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghn.errors import ConfigError, GHNError

IMMEDIATE = ("register", "report")
"""Stages that send what waits for MLflow at once, however short they are: the last ones."""


ON_GPUS = ("evaluate", "finetune", "transfer", "detect")
"""Stages whose items compute on GPUs where there are some; the others' take none."""


class MissingInputError(ConfigError):
    """A stage failed, and what it reads is not there; the message says which stages make it."""


def run_stage(name: str, label: str | None = None, **options: Any) -> None:
    """Loads params.yaml and runs stage `name` inside its MLflow run.

    Args:
        name: module of `flows.stages`.
        label: the stage's name in dvc.yaml where that is another (`generate@train`).
        options: further arguments of the stage's `run`.

    Raises:
        MissingInputError: the stage failed without something that dvc.yaml says it reads.
        GHNError: the stage failed.
    """
    from flows.compute import gpus
    from flows.params import load_params
    from flows.settings.dvcfile import read_stages
    from flows.tracking.run import CONNECT_AFTER_SECONDS, stage_run

    params = load_params()
    tree = params.model_dump(mode="json", by_alias=True)
    if name != "train":
        wanted = params.base.device if name in ON_GPUS else "cpu"
        device, fanout = gpus.agree(wanted, params.fanout)
        base = params.base.model_copy(update={"device": device})
        params = params.model_copy(update={"base": base, "fanout": fanout})
    stages = read_stages(tree)
    declared = stages.get(label or name)
    module = importlib.import_module(f"flows.stages.{name}")
    try:
        with stage_run(
            label or name,
            declared.used_params(tree) if declared else tree,
            inputs=declared.inputs if declared else (),
            outputs=declared.outputs if declared else (),
            experiment=params.base.experiment,
            connect_after_seconds=0.0 if name in IMMEDIATE else CONNECT_AFTER_SECONDS,
        ) as run:
            module.run(params, run, **options)
    except (GHNError, FileNotFoundError) as error:
        if declared is not None and (missing := _missing(declared.inputs, stages)):
            raise MissingInputError(f"{error}\n{missing}") from error
        raise


def _missing(inputs: tuple[str, ...], stages: Mapping[str, Any]) -> str:
    """A line per stage whose outputs are not there: what to run for them."""
    makers: dict[str, list[str]] = {}
    for path in inputs:
        for name, stage in stages.items():
            if not Path(path).exists() and any(
                Path(out) == Path(path) or Path(path) in Path(out).parents for out in stage.outputs
            ):
                makers.setdefault(path, []).append(name)
    return "\n".join(
        f"{path} is not there; `dvc repro {' '.join(names)}` makes it"
        for path, names in makers.items()
    )
