"""Runs a stage: its sections of params.yaml, its MLflow run."""

from __future__ import annotations

import fcntl
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.params import Params, load_params
from flows.rows.provenance import require_own_code
from flows.settings import paths
from flows.settings.dvcfile import read_stages
from flows.tracking.run import CONNECT_AFTER_SECONDS, StageRun, stage_run
from ghn.errors import GHNError

IMMEDIATE = ("register", "report")
"""Stages that send what waits for MLflow at once, however short they are: the last ones."""


def run_stage(name: str, label: str | None = None, **options: Any) -> None:
    """Loads params.yaml and runs stage `name` inside its MLflow run.

    Args:
        name: module of `flows.stages`.
        label: the stage's name in dvc.yaml where that is another (`generate@train`).
        options: further arguments of the stage's `run`.

    Raises:
        ConfigError: params.yaml is wrong, or this is another checkout than the code's.
    """
    require_own_code(Path.cwd())
    params = load_params()
    tree = params.model_dump(mode="json", by_alias=True)
    declared = read_stages(tree).get(label or name)
    module = importlib.import_module(f"flows.stages.{name}")
    outputs = declared.outputs if declared else ()
    with (
        _alone(label or name, outputs),
        stage_run(
            label or name,
            declared.used_params(tree) if declared else tree,
            inputs=declared.inputs if declared else (),
            outputs=outputs,
            experiment=params.base.experiment,
            connect_after_seconds=0.0 if name in IMMEDIATE else CONNECT_AFTER_SECONDS,
        ) as run,
    ):
        start(module.run, params, run, **options)


class StageInUseError(GHNError):
    """The same stage runs already in this tree."""


@contextmanager
def _alone(label: str, outputs: Iterable[str]) -> Iterator[None]:
    """Holds others off this stage of the tree; removes what a killed run of it left half written.

    Raises:
        StageInUseError: it runs already, here or in another container.
    """
    path = paths.CACHE / "locks" / label
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StageInUseError(
                f"stage {label} runs already in this tree; wait until it ends"
            ) from None
        for output in map(Path, outputs):
            leftovers = output.parent.glob(f".tmp-*-{output.name}")
            for leftover in (*leftovers, *output.rglob(".tmp-*")):
                leftover.unlink(missing_ok=True)
        yield


def start(run: Callable[..., None], params: Params, stage: StageRun | None, **options: Any) -> None:
    """Calls a stage's `run` with the sections that it names among its arguments."""
    run(**{name: params.section(name) for name in sections_of(run)}, stage=stage, **options)


def sections_of(run: Callable[..., None]) -> tuple[str, ...]:
    """The sections of params.yaml that a stage's `run` takes, by its signature."""
    known = {field.alias or name for name, field in Params.model_fields.items()}
    return tuple(name for name in inspect.signature(run).parameters if name in known)
