"""The pipeline as a Prefect flow: a task per stage of dvc.yaml, as soon as the stages before it are
done.

dvc.yaml is the only list of stages: which there are, and which reads what another writes, comes
from there. A task runs
`dvc repro --single-item <stage>`, so what has not changed is skipped here as it is there, and its
state says so: Unchanged (nothing to do), Restored (from DVC's cache of earlier runs) or Completed.
With parameters of its own a run becomes a DVC experiment in a worktree beside the tree
(`flows.orchestration.workspace`).

The flow leaves artifacts on its page: a summary in Markdown, the stages as a table with links to
their MLflow runs.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterName,
)
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.concurrency.sync import concurrency
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from flows.compute import gpus, shell
from flows.compute.locks import locked
from flows.compute.parent import exit_with_parent
from flows.orchestration import artifacts
from flows.orchestration.limits import TRAINING_LIMIT
from flows.orchestration.workspace import Workspace, experiment
from flows.params import PARAMS_FILE, load_params
from flows.settings import paths
from flows.settings.dvcfile import Declaration, read_stages
from flows.tracking import pipeline_run
from flows.tracking.events import outputs_changed
from flows.tracking.origin import PARENT_VARIABLE
from ghn.errors import GHNError

STAGE_TIMEOUT_SECONDS = 14 * 24 * 3600
"""A stage that takes longer is taken for stuck; 75 epochs of ImageNet on 8 GPUs stay below."""

TRAINING = "train"
"""The stage that occupies GPUs, each a slot of the limit `TRAINING_LIMIT`, which `ghn stack up`
makes.
"""

MAX_CRASHES = 3
"""After so many in a row no automation starts another run."""

SLOT_SECONDS = 90
"""A slot is renewed while the stage runs; that of a machine that is gone is free again after so
long.
"""

MARKS = {"didn't change, skipping": "Unchanged", "is cached - skipping run": "Restored"}
"""What DVC prints, and the name of the task's state; otherwise the stage was run."""

_EXIT_CODE = re.compile(r"exited with (-?\d+)")
_BUSY = "is busy, it is being blocked by"


class StageFailedError(GHNError):
    """A stage ended with an exit code other than 0; its output is in the log of the task run.

    Attributes:
        passing: whether the cause may be gone next time: a file that DVC has in use, an end by a
            signal (out of memory), a worker that went down. Wrong parameters and damaged files are
            not retried.
    """

    def __init__(self, message: str, passing: bool):
        super().__init__(message)
        self.passing = passing


@dataclass(frozen=True)
class Outcome:
    """What became of a stage."""

    status: str
    seconds: float


def upstream(stages: Mapping[str, Declaration]) -> dict[str, set[str]]:
    """For each stage the stages whose outputs it reads; a file in an output directory counts, and
    the reverse.
    """
    producers = {Path(out): name for name, stage in stages.items() for out in stage.outputs}

    def reads(dependency: Path) -> set[str]:
        return {
            name
            for out, name in producers.items()
            if dependency == out or out in dependency.parents or dependency in out.parents
        }

    return {
        name: {source for dep in stage.inputs for source in reads(Path(dep))} - {name}
        for name, stage in stages.items()
    }


def needed(before: Mapping[str, set[str]], targets: Sequence[str]) -> list[str]:
    """The targets (`generate` for all `generate@…`) and all stages before them, in an order to run;
    no targets: all.

    Raises:
        StageFailedError: a target is no stage of dvc.yaml.
    """
    wanted: set[str] = set()
    queue = [
        name for name in before if not targets or name in targets or name.split("@")[0] in targets
    ]
    if unknown := [
        t
        for t in targets
        if t not in before and not any(name.startswith(f"{t}@") for name in before)
    ]:
        raise StageFailedError(
            f"no stage {', '.join(unknown)} in dvc.yaml; there are {', '.join(before)}", False
        )
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue.extend(before[name])
    return [name for name in TopologicalSorter(before).static_order() if name in wanted]


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

    def on_line(line: str) -> None:
        lines.append(line)
        logger.info(line)

    slots: AbstractContextManager[None] = nullcontext()
    if stage == TRAINING:
        slots = concurrency(TRAINING_LIMIT, _training_slots(workspace), lease_duration=SLOT_SECONDS)
    with slots:
        code = shell.stream(
            [
                "dvc",
                "--wait-for-lock",
                "repro",
                "--single-item",
                stage,
            ],  # stages that begin together take turns
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
    if (
        status != "Unchanged" and workspace.directory == Path.cwd()
    ):  # an experiment changes nothing in the tree
        outputs_changed(stage, workspace.directory, dependents_run)
    seconds = time.perf_counter() - started
    return Completed(name=status, message=f"{seconds:.1f} s", data=Outcome(status, seconds))


def _training_slots(workspace: Workspace) -> int:
    """The GPUs that a training takes, at most all of the limit; 1 on a machine without, where it
    takes processors.
    """
    params = load_params(workspace.directory / PARAMS_FILE)
    found = 0 if params.base.device == "cpu" else len(gpus.visible())
    taken = gpus.ranks(params.train.processes, params.train.meta_batch_size, found) if found else 1
    if taken == 1:
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
        crashed = (
            state is not None and state.is_crashed()
        )  # its worker died; another, or the same again, takes it
        raise StageFailedError(
            f"stage {stage} in {deployment}: {state.name if state else 'no state'}", crashed
        )
    with get_client(
        sync_client=True
    ) as prefect_client:  # whose task knows whether anything had changed
        there = prefect_client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),  # type: ignore[union-attr]
            task_run_filter=TaskRunFilter(name=TaskRunFilterName(any_=[stage])),
        )
    status = str(there[0].state_name) if there else "Completed"
    return Completed(name=status, data=Outcome(status, time.perf_counter() - started))


@flow(name="pipeline", log_prints=True, flow_run_name=lambda: _run_name(), persist_result=False)
def pipeline(
    targets: list[str] | None = None,
    overrides: dict[str, Any] | None = None,
    profile: str | None = None,
    only: bool = False,
    train_in: str | None = None,
    continues: bool = False,
) -> dict[str, str]:
    """Brings stages up to date; returns what became of each.

    Args:
        targets: Stages of dvc.yaml (`evaluate`, `generate@test`, `generate` for all of its splits);
            those before them are brought up to date too. By default all stages.
        overrides: Parameters by dotted name, such as {"train.steps": 500}; with any, the run
            happens beside the tree and is kept as a DVC experiment named like the flow run.
        profile: Overlay of params.yaml, such as paper; likewise an experiment.
        only: Run the targets alone, not the stages before them.
        train_in: Deployment that takes the stage train, such as "pipeline/gpu" in the pool with the
            GPUs; by default it runs here. (An experiment always trains here, since its workspace is
            here.)
        continues: This run is started by an automation in place of one that crashed; it fails if
            that has happened `MAX_CRASHES` times in a row.
    """
    end_with_worker()
    if continues:
        refuse_after_crashes()
    if not overrides and profile is None:
        # A single stage is guarded by DVC's own locks, and may be part of a run that holds this.
        with nullcontext() if only else locked(paths.TREE_LOCK, on_wait=_say_waiting) as lock:
            return _run(Workspace(Path.cwd(), lock=lock), targets or [], only, train_in)
    name = re.sub(r"[^A-Za-z0-9._-]", "-", str(flow_run.name))
    with experiment(name, overrides or {}, profile) as workspace:
        return _run(workspace, targets or [], only, None)


def _say_waiting() -> None:
    get_run_logger().info("another run works in this tree; waiting until it has ended")


def refuse_after_crashes() -> None:
    """Raises `StageFailedError` if the last `MAX_CRASHES` runs of this deployment all crashed
    within a day: what takes workers down again and again is no accident.
    """
    ended = [StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED]
    deployment = UUID(str(flow_run.deployment_id))
    with get_client(sync_client=True) as prefect_client:
        runs = prefect_client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ended)),
            ),
            sort=FlowRunSort.END_TIME_DESC,
            limit=MAX_CRASHES,
        )
    day_ago = datetime.now(UTC) - timedelta(days=1)
    crashes = [
        run
        for run in runs
        if run.state_type == StateType.CRASHED and (run.end_time or day_ago) > day_ago
    ]
    if len(crashes) == MAX_CRASHES:
        raise StageFailedError(
            f"the last {MAX_CRASHES} runs crashed ({', '.join(run.name for run in crashes)}); look"
            " at their logs and the machine's memory, then start a run by hand",
            False,
        )


def end_with_worker() -> None:
    """Has this flow run end, as Crashed, when the worker dies that started it: nobody could cancel
    it any more.
    """
    if "PREFECT__FLOW_RUN_ID" in os.environ:
        exit_with_parent()


def _run(
    workspace: Workspace, targets: Sequence[str], only: bool, train_in: str | None
) -> dict[str, str]:
    params = load_params(workspace.directory / PARAMS_FILE)
    tree = params.model_dump(mode="json", by_alias=True)
    before = upstream(read_stages(tree, workspace.directory / "dvc.yaml"))
    order = needed(before, targets)
    if only:
        order = [name for name in order if name in targets or name.split("@")[0] in targets]
    futures: dict[str, PrefectFuture[Any]] = {}
    with pipeline_run("pipeline (Prefect)", tree, params.base.experiment) as parent_run:
        try:
            for name in order:
                first = [futures[source] for source in before[name] if source in futures]
                if name == TRAINING and train_in:
                    futures[name] = delegate_stage.submit(
                        name, train_in, parent_run, wait_for=first, return_state=False
                    )
                else:
                    included = all(
                        reader in order for reader, sources in before.items() if name in sources
                    )
                    futures[name] = run_stage.submit(
                        name, workspace, included, wait_for=first, return_state=False
                    )
            for future in futures.values():
                future.wait()
        except BaseException:  # a cancelled flow run: its threads wait for their stages
            shell.end_all()
            raise
        states = {name: future.state for name, future in futures.items()}
        artifacts.leave(_rows(futures), workspace.directory, parent_run, params.base.experiment)
        if failed := [name for name, state in states.items() if not state.is_completed()]:
            reasons = "; ".join(f"{name}: {states[name].name}" for name in failed)
            raise StageFailedError(
                f"{len(failed)} of {len(states)} stages did not complete ({reasons})", False
            )
    workspace.done.extend(order)
    return {name: str(state.name) for name, state in states.items()}


def _rows(futures: Mapping[str, PrefectFuture[Any]]) -> list[dict[str, str]]:
    """Stage, state and seconds for the artifacts; of a stage that failed there is no outcome but an
    exception.
    """
    outcomes = {name: future.result(raise_on_failure=False) for name, future in futures.items()}
    return [
        {
            "stage": name,
            "state": str(futures[name].state.name),
            "seconds": f"{outcome.seconds:.1f}" if isinstance(outcome, Outcome) else "",
        }
        for name, outcome in outcomes.items()
    ]


def _run_name() -> str:
    parameters = flow_run.parameters or {}
    what = "-".join(parameters.get("targets") or ["all"]) + (
        "-" + parameters["profile"] if parameters.get("profile") else ""
    )
    return f"{what}-{time.strftime('%Y%m%d-%H%M%S')}"


if __name__ == "__main__":
    pipeline()
