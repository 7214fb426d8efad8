"""The pipeline's flow against a real Prefect server: states, assets, progress, logs."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.events import emit_event

from flows.orchestration.pipeline import pipeline

from .conftest import events, make_tree, wait_for

DVC_YAML = """
stages:
  generate:
    foreach: [train, test]
    do:
      cmd: python fan.py data/deepnets1m/${item}.h5
      outs:
        - data/deepnets1m/${item}.h5
  train:
    cmd: >-
      test ! -e no-training && mkdir -p models &&
      cat data/deepnets1m/*.h5 > models/weights && echo 1 > models/curve.json
    deps: [data/deepnets1m, fan.py]
    outs: [models/weights, models/curve.json]
  evaluate:
    cmd: >-
      echo [$GHN_HOLD_PROMOTION] > held; cat models/weights > results.txt;
      test ! -e broken || { echo no such network; exit 3; }
    deps: [models/weights]
    outs: [results.txt]
"""

# A fan-out as in the stages, which writes the state of its bar more often than every half a minute.
FAN = """
import sys, time
from pathlib import Path
from tqdm import tqdm
from flows.compute import fanout
fanout._progress = lambda title, total: tqdm(desc=title, total=total, mininterval=0.1)
config = fanout.FanOut(workers=1)
done = [item for item in fanout.fan_out(lambda i: time.sleep(0.15) or i, range(4), config,
                                        title="networks")]
out = Path(sys.argv[1])
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text(f"{out.stem} {done}")
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with three stages, none of which has run."""
    directory = make_tree(tmp_path_factory.mktemp("flows") / "tree", DVC_YAML)
    (directory / "fan.py").write_text(FAN)
    return directory


@pytest.fixture(scope="module")
def first(tree: Path, server: SyncPrefectClient) -> UUID:
    """The flow run that has brought the whole tree up to date."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.compute.shell.PROGRESS_SECONDS", 0.1)
        patch.setattr("flows.orchestration.progress.UPDATE_SECONDS", 0.0)
        state = run(patch, tree, approval=True)
    assert state.is_completed(), state.message
    return run_id(state)


def run(patch: pytest.MonkeyPatch, tree: Path, **parameters: Any) -> State[Any]:
    """Runs the flow in a tree, with MLflow away."""
    patch.chdir(tree)
    patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    patch.delenv("GHN_PARENT_RUN_ID", raising=False)
    state: State[Any] = pipeline(**parameters, return_state=True)
    return state


def run_id(state: State[Any]) -> UUID:
    assert state.state_details.flow_run_id is not None
    return state.state_details.flow_run_id


def tasks(server: SyncPrefectClient, run: UUID) -> dict[str, str]:
    """The states of the tasks of a flow run, by name."""

    def ended() -> dict[str, str]:
        query = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
        found = server.read_task_runs(flow_run_filter=query)
        states = {task.name: str(task.state_name) for task in found}
        return states if states and not {"Running", "Pending"} & {*states.values()} else {}

    found: dict[str, str] = wait_for("the tasks have ended", ended)
    return found


def test_every_output_is_an_asset_with_what_it_was_made_from(
    server: SyncPrefectClient, first: UUID, tree: Path
) -> None:
    def all_made() -> list[dict[str, Any]]:
        found = events(server, "prefect.asset.materialization", first)
        return found if len(found) == 5 else []

    made = {
        event["resource"]["prefect.resource.id"]: event
        for event in wait_for("five assets", all_made)
    }
    assert {event["event"] for event in made.values()} == {
        "prefect.asset.materialization.succeeded"
    }
    weights = made["dvc://ghn3/models/weights"]
    assert of_role(weights, "asset") == {
        "dvc://ghn3/data/deepnets1m/train.h5",
        "dvc://ghn3/data/deepnets1m/test.h5",
        "dvc://ghn3/fan.py",
    }
    # Not of all that the training wrote, though it waited for the training.
    assert of_role(made["dvc://ghn3/results.txt"], "asset") == {"dvc://ghn3/models/weights"}
    assert of_role(weights, "asset-materialized-by") == {"dvc"}
    assert weights["payload"]["md5"] in (tree / "dvc.lock").read_text()
    assert weights["payload"]["size"] == (tree / "models" / "weights").stat().st_size


def of_role(event: dict[str, Any], role: str) -> set[str]:
    return {
        related["prefect.resource.id"]
        for related in event["related"]
        if related["prefect.resource.role"] == role
    }


def test_the_progress_of_a_fan_out_is_in_the_log_and_on_the_page(
    server: SyncPrefectClient, first: UUID
) -> None:
    def lines() -> list[str]:
        query = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[first]))
        return [log.message for log in server.read_logs(query) if "networks" in log.message]

    found = wait_for("lines of the bar", lines)
    assert [line for line in found if "/4 [" in line and "100%" not in line]
    query = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[first]))
    shown = {artifact.key: artifact for artifact in server.read_artifacts(artifact_filter=query)}
    bar = shown["progress-generate-train"]
    assert (bar.type, bar.data, bar.description) == ("progress", 100.0, "generate@train: done")
    assert {"stages", "pipeline"} < shown.keys()
    assert "progress-train" not in shown  # it printed none


def test_runs_of_the_same_second_have_names_of_their_own(
    server: SyncPrefectClient, first: UUID
) -> None:
    """Experiments are named like their run, and a later one replaces an earlier one."""
    assert server.read_flow_run(first).name.endswith(f"-{str(first)[:8]}")


def test_with_approval_a_registration_is_told_to_wait(first: UUID, tree: Path) -> None:
    assert (tree / "held").read_text() == "[1]\n"


def test_what_has_not_changed_is_skipped_and_makes_no_assets(
    server: SyncPrefectClient, first: UUID, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = run(monkeypatch, tree, targets=["evaluate"], only=True)
    again = run_id(state)
    assert tasks(server, again) == {"evaluate": "Unchanged"}
    # The events of a process come in their order: once this one is there, so are all before it.
    ours = {"prefect.resource.id": f"prefect.flow-run.{again}"}
    emit_event("test.last", ours, related=[{**ours, "prefect.resource.role": "flow-run"}])
    wait_for("the last event", lambda: events(server, "test.last", again))
    assert not events(server, "prefect.asset", again)


def test_runs_of_several_stages_take_turns_in_a_tree(
    server: SyncPrefectClient, first: UUID, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = re.sub(r"[^\w.]+", "-", f"tree{tree}")
    monkeypatch.setattr("flows.orchestration.pipeline._PATIENCE_SECONDS", 0.1)
    limit = server.read_global_concurrency_limit_by_name(name)
    assert (limit.limit, limit.active_slots) == (1, 0)  # the first run has given it back
    begun: list[UUID] = []

    def other() -> None:
        """A run that would write the same files."""
        query = server.read_flow_runs  # this thread's own run is among them
        before = {run.id for run in query()}
        with pytest.MonkeyPatch.context() as patch:
            run(patch, tree, targets=["no such stage"])
        begun.extend({run.id for run in query()} - before)

    thread = threading.Thread(target=other)
    with concurrency(name, lease_duration=60):
        thread.start()
        waiting = "another run works in this tree; waiting until it has ended"
        wait_for("the other run says that it waits", lambda: logs(server, waiting))
        assert not begun
    thread.join(60)
    assert len(begun) == 1


def logs(server: SyncPrefectClient, text: str) -> list[str]:
    return [log.message for log in server.read_logs(LogFilter(), limit=200) if text in log.message]


def test_a_stage_that_fails_says_so_and_is_not_tried_again(
    server: SyncPrefectClient, first: UUID, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "broken").touch()
    (tree / "models" / "weights").write_text("others, which evaluate has not seen")
    state = run(monkeypatch, tree, targets=["evaluate"], only=True)
    assert state.is_failed()
    failed = run_id(state)
    assert tasks(server, failed) == {"evaluate": "Failed"}
    assert (tree / "held").read_text() == "[]\n"  # of a run without approval
    assert "1 of 1 stages did not complete (evaluate: Failed)" in str(state.message)
    (event,) = wait_for(
        "the failed asset", lambda: events(server, "prefect.asset.materialization", failed)
    )
    assert event["event"] == "prefect.asset.materialization.failed"


def test_a_stage_that_could_not_begin_after_one_that_failed_is_named_too(
    first: UUID, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "no-training").touch()
    with (tree / "fan.py").open("a") as code:
        code.write("# training depends on this\n")
    state = run(monkeypatch, tree, targets=["evaluate"])
    assert state.is_failed()
    assert "2 of 4 stages did not complete (train: Failed; evaluate: NotReady)" in str(
        state.message
    )
