"""A stage of dvc.yaml as a task: here, or as a run of another deployment."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterName,
)
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed
from prefect.tasks import MaterializingTask, exponential_backoff

from flows.compute import gpus
from flows.orchestration import assets
from flows.orchestration.errors import StageFailedError
from flows.orchestration.limits import SLOT_SECONDS, TRAINING_LIMIT
from flows.orchestration.progress import Progress
from flows.orchestration.workspace import Workspace
from flows.params import PARAMS_FILE, load_params
from flows.settings.dvcfile import Declaration
from flows.tracking.events import outputs_changed
from flows.tracking.origin import PARENT_VARIABLE

STAGE_TIMEOUT_SECONDS = 14 * 24 * 3600
"""A stage that takes longer is taken for stuck; 75 epochs of ImageNet on 8 GPUs stay below."""

TRAINING = "train"
"""The stage that occupies GPUs, each a slot of the limit `TRAINING_LIMIT`, which `ghn stack up`
makes.
"""

MARKS = {"didn't change, skipping": "Unchanged", "is cached - skipping run": "Restored"}
"""What DVC prints, and the name of the task's state; otherwise the stage was run."""

_EXIT_CODE = re.compile(r"exited with (-?\d+)")
_BUSY = "is busy, it is being blocked by"


@dataclass(frozen=True)
class Outcome:
    """What became of a stage."""

    status: str
    seconds: float


def _worth_retrying(_task: Any, _run: Any, state: State) -> bool:
    return isinstance(state.data, StageFailedError) and state.data.passing


_RETRIED: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=10),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _worth_retrying,
    "persist_result": False,
}
"""Options of the tasks that run a stage, here or in another pool."""


def stage_task(
    stages: Mapping[str, Declaration], stage: str, tree: str
) -> Task[[str, Workspace, bool], State[Outcome]]:
    """`run_stage` for a stage, whose outputs are assets of tree `tree` then
    (`flows.orchestration.assets`).
    """
    written, read = assets.lineage(stages, stage, tree)
    return MaterializingTask(
        run_stage.fn,
        assets=written,
        asset_deps=list(read),
        materialized_by=assets.TOOL,
        name=run_stage.name,
        task_run_name=run_stage.task_run_name,
        **_RETRIED,
    )


@task(name="stage", task_run_name="{stage}", **_RETRIED)
def run_stage(stage: str, workspace: Workspace, dependents_run: bool = True) -> State[Outcome]:
    """Runs one stage through DVC; the state's name says whether it was Completed, Unchanged or
    Restored.

    Args:
        stage: its name in dvc.yaml.
        workspace: where.
        dependents_run: whether this flow run goes on with the stages that read its outputs
            (`flows.tracking.events`).
    """
    logger = get_run_logger()
    started = time.perf_counter()
    lines: list[str] = []
    progress = Progress(stage)
    assets.begin()

    def on_line(line: str) -> None:
        lines.append(line)
        logger.info(line)
        progress.line(line)

    slots: AbstractContextManager[None] = nullcontext()
    if stage == TRAINING:
        slots = concurrency(TRAINING_LIMIT, _training_slots(workspace), lease_duration=SLOT_SECONDS)
    with slots:
        code = workspace.commands.stream(
            # stages that begin together take turns
            ["dvc", "--wait-for-lock", "repro", "--single-item", stage],
            on_line,
            cwd=workspace.directory,
            extra=workspace.environment,
            timeout_seconds=STAGE_TIMEOUT_SECONDS,
            keep_open=() if workspace.lock is None else (workspace.lock,),
        )
    if code:
        output = "\n".join(lines)
        exit_codes = [int(match) for match in _EXIT_CODE.findall(output)]
        passing = _BUSY in output or any(_killed(c) for c in [code, *exit_codes])
        raise StageFailedError(
            f"stage {stage} failed: {lines[-1] if lines else f'exit code {code}'}", passing
        )
    status = next(
        (name for mark, name in MARKS.items() if any(mark in line for line in lines)), "Completed"
    )
    progress.end()
    assets.note(stage, workspace.directory, written=status != "Unchanged")
    # an experiment changes nothing in the tree
    if status != "Unchanged" and workspace.directory == Path.cwd():
        outputs_changed(stage, workspace.directory, dependents_run)
    seconds = time.perf_counter() - started
    return Completed(name=status, message=f"{seconds:.1f} s", data=Outcome(status, seconds))


def _training_slots(workspace: Workspace) -> int:
    """The GPUs that a training takes, at most all of the limit; 1 on a machine without, where it
    takes processors.
    """
    params = load_params(workspace.directory / PARAMS_FILE)
    found = 0 if params.base.device == "cpu" else len(gpus.visible())
    train = params.train
    _, taken = gpus.training(train.processes, train.meta_batch_size, found, train.ranks_per_gpu)
    if taken <= 1:
        return 1
    try:
        with get_client(sync_client=True) as prefect_client:
            limit = prefect_client.read_global_concurrency_limit_by_name(TRAINING_LIMIT).limit
    except ObjectNotFound:  # then there is nothing to wait for either
        return taken
    return min(taken, limit)


def _killed(exit_code: int) -> bool:
    """Whether a signal ended a command, other than Ctrl-C's (which is how a cancelled run ends its
    stages).
    """
    number = -exit_code if exit_code < 0 else exit_code - 128
    return number in signal.valid_signals() and number != signal.SIGINT  # DVC's own 255 is none


@task(name="stage in another pool", task_run_name="{stage} -> {deployment}", **_RETRIED)
def delegate_stage(stage: str, deployment: str, parent_run: str | None) -> State[Outcome]:
    """Runs a stage as a run of `deployment` (in the pool with the GPUs) below MLflow run
    `parent_run`; waits for it.
    """
    started = time.perf_counter()
    run = run_deployment(
        deployment,
        parameters={"targets": [stage], "only": True},
        job_variables={"env": {PARENT_VARIABLE: parent_run}} if parent_run else None,
        timeout=STAGE_TIMEOUT_SECONDS,
    )
    state = run.state  # type: ignore[union-attr]  # a synchronous caller gets the flow run
    if state is None or not state.is_completed():
        # its worker died; another, or the same again, takes it
        crashed = state is not None and state.is_crashed()
        raise StageFailedError(
            f"stage {stage} in {deployment}: {state.name if state else 'no state'}", crashed
        )
    # whose task knows whether anything had changed
    with get_client(sync_client=True) as prefect_client:
        there = prefect_client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),  # type: ignore[union-attr]
            task_run_filter=TaskRunFilter(name=TaskRunFilterName(any_=[stage])),
        )
    status = str(there[0].state_name) if there else "Completed"
    return Completed(name=status, data=Outcome(status, time.perf_counter() - started))
