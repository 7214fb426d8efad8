"""The pipeline as a Prefect flow: a task per stage of dvc.yaml, as soon as the stages before it are
done.

dvc.yaml is the only list of stages: which there are, and which reads what another writes, comes
from there. A task runs `dvc repro --single-item <stage>`, so what has not changed is skipped here
as it is there, and its state says so: Unchanged (nothing to do), Restored (from DVC's cache of
earlier runs) or Completed. With parameters of its own a run becomes a DVC experiment in a worktree
beside the tree (`flows.orchestration.workspace`).

The flow leaves artifacts on its page: a summary in Markdown, the stages as a table with links to
their MLflow runs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run

from flows.orchestration import artifacts
from flows.orchestration.crashes import end_with_worker, refuse_after_crashes
from flows.orchestration.errors import StageFailedError
from flows.orchestration.limits import SLOT_SECONDS, TREE_LIMIT
from flows.orchestration.menus import Profile, Stage
from flows.orchestration.order import needed, upstream
from flows.orchestration.tasks import TRAINING, Outcome, delegate_stage, stage_task
from flows.orchestration.workspace import Workspace, experiment
from flows.params import PARAMS_FILE, load_params
from flows.settings import paths
from flows.settings.dvcfile import read_stages
from flows.tracking import pipeline_run
from flows.tracking.origin import HOLD_VARIABLE
from ghn.locks import locked

_PATIENCE_SECONDS = 5.0
"""How long a run waits for its turn before it says so."""


@flow(name="pipeline", log_prints=True, flow_run_name=lambda: _run_name(), persist_result=False)
def pipeline(
    targets: list[Stage] | None = None,
    overrides: dict[str, Any] | None = None,
    profile: Profile | None = None,
    only: bool = False,
    train_in: str | None = None,
    continues: bool = False,
    approval: bool = False,
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
            that has happened too often in a row.
        approval: A better hypernetwork becomes the champion as soon as somebody approves of it, in
            the form of the run of promote/approval that the registration starts; otherwise at once.
    """
    environment = {HOLD_VARIABLE: "1"} if approval else {}
    end_with_worker()
    if continues:
        refuse_after_crashes()
    if not overrides and profile is None:
        # A single stage is guarded by DVC's own locks, and may be part of a run that holds these.
        with nullcontext() if only else _tree() as lock:
            tree = Workspace(Path.cwd(), environment, lock=lock)
            return _run(tree, targets or [], only, train_in)
    name = re.sub(r"[^A-Za-z0-9._-]", "-", str(flow_run.name))
    with experiment(name, overrides or {}, profile) as workspace:
        workspace.environment.update(environment)
        return _run(workspace, targets or [], only, None)


@contextmanager
def _tree() -> Iterator[int | None]:
    """Waits until no other run works in the tree: no flow run, by a limit of the server, whatever
    deployment it is of; and no `ghn run`, by the lock in the tree, whose descriptor this yields.
    """
    name = re.sub(r"[^\w.]+", "-", f"{TREE_LIMIT}{Path.cwd()}")
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, 1)
    with ExitStack() as stack:
        slot = partial(concurrency, name, lease_duration=SLOT_SECONDS)
        try:
            stack.enter_context(slot(timeout_seconds=_PATIENCE_SECONDS))
        except TimeoutError:
            _say_waiting()
            stack.enter_context(slot())
        yield stack.enter_context(locked(paths.TREE_LOCK, on_wait=_say_waiting))


def _say_waiting() -> None:
    get_run_logger().info("another run works in this tree; waiting until it has ended")


def _run(
    workspace: Workspace, targets: Sequence[str], only: bool, train_in: str | None
) -> dict[str, str]:
    params = load_params(workspace.directory / PARAMS_FILE)
    tree = params.tree()
    stages = read_stages(tree, workspace.directory / "dvc.yaml")
    before = upstream(stages)
    order = needed(before, targets)
    if only:
        order = [name for name in order if name in targets or name.split("@")[0] in targets]
    label = params.base.experiment  # what an experiment writes is not what the tree has
    if workspace.directory != Path.cwd():
        label = f"{label}@{flow_run.name}"
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
                    futures[name] = stage_task(stages, name, label).submit(
                        name, workspace, included, wait_for=first, return_state=False
                    )
            for future in futures.values():
                future.wait()
        except BaseException:  # a cancelled flow run: its threads wait for their stages
            workspace.commands.end()
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
    exception, and of one that could not begin after it nothing.
    """
    outcomes = {
        name: future.result(raise_on_failure=False) if future.state.is_final() else None
        for name, future in futures.items()
    }
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
    # Experiments are named like the run: two of the same second must not replace each other.
    return f"{what}-{time.strftime('%Y%m%d-%H%M%S')}-{str(flow_run.id)[:8]}"


if __name__ == "__main__":
    pipeline()
