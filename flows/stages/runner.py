"""Runs a stage as `ghn <stage>` does: with its sections of params.yaml, in a run of MLflow."""

from __future__ import annotations

import gc
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.settings import paths
from ghn.errors import ConfigError, GHNError

if TYPE_CHECKING:
    from flows.params import Params
    from flows.tracking.run import StageRun

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
        ConfigError: params.yaml is wrong, or this is another checkout than the code's.
        StageInUseError: it runs already in this tree.
        DamagedFileError: a file that the stage reads is not as another stage wrote it.
        GHNError: the stage failed.
    """
    from flows.compute import gpus
    from flows.params import load_params
    from flows.rows.provenance import require_own_code
    from flows.settings.dvcfile import read_stages
    from flows.stages import outputs
    from flows.stages.lock import alone
    from flows.tracking.run import CONNECT_AFTER_SECONDS, stage_run

    require_own_code(Path.cwd())
    params = load_params()
    tree = params.tree()
    if name != "train":
        wanted = params.base.device if name in ON_GPUS else "cpu"
        device, fanout = gpus.agree(wanted, params.fanout)
        base = params.base.model_copy(update={"device": device})
        params = params.model_copy(update={"base": base, "fanout": fanout})
    stages = read_stages(tree)
    declared = stages.get(label or name)
    written = declared.outputs if declared else ()
    module = importlib.import_module(f"flows.stages.{name}")
    try:
        with (
            alone(label or name, written),
            stage_run(
                label or name,
                declared.used_params(tree) if declared else tree,
                inputs=declared.inputs if declared else (),
                outputs=written,
                experiment=params.base.experiment,
                connect_after_seconds=0.0 if name in IMMEDIATE else CONNECT_AFTER_SECONDS,
            ) as run,
        ):
            if declared is not None:
                outputs.verify(declared, stages)
            start(module.run, params, run, **options)
            if declared is not None:
                outputs.note(declared, stages)
    except KeyboardInterrupt:
        gc.freeze()  # or Python looks through all objects once more before it ends
        raise
    except (GHNError, FileNotFoundError) as error:
        if declared is not None and (missing := _missing(declared.inputs, stages)):
            said = str(error)
            if isinstance(error, FileNotFoundError) and error.filename:
                said = f"{error.filename}: {error.strerror}"
            raise MissingInputError(f"{said}\n{missing}") from error
        raise


def start(run: Callable[..., None], params: Params, stage: StageRun | None, **options: Any) -> None:
    """Calls a stage's `run` with the sections that it names among its arguments."""
    run(**{name: params.section(name) for name in sections_of(run)}, stage=stage, **options)


def sections_of(run: Callable[..., None]) -> tuple[str, ...]:
    """The sections of params.yaml that a stage's `run` takes, by its signature."""
    from flows.params import Params

    known = {field.alias or name for name, field in Params.model_fields.items()}
    return tuple(name for name in inspect.signature(run).parameters if name in known)


def _missing(inputs: tuple[str, ...], stages: Mapping[str, Any]) -> str:
    """A line per stage whose outputs are not there: what to run for them."""
    makers: dict[str, list[str]] = {}
    for path in inputs:
        if Path(path).exists():
            continue
        for name, stage in stages.items():
            if any(paths.overlap(Path(path), Path(out)) for out in stage.outputs):
                makers.setdefault(path, []).append(name)
    return "\n".join(
        f"{path} is not there; `dvc repro {' '.join(names)}` makes it"
        for path, names in makers.items()
    )
