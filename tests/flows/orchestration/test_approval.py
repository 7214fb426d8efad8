"""A version waits for somebody: registry and server are real."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.schemas.events import Event, Resource
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.flow_runs import resume_flow_run
from prefect.states import Pending, Running, Suspended
from prefect.utilities.callables import parameter_schema

from flows.orchestration import automations
from flows.orchestration.approval import ask, pause_key
from flows.registry.lookup import by_alias
from flows.registry.promotion import promote
from flows.rows.answers import pack
from flows.rows.schema import identity, write_rows
from flows.settings.register import RegisterConfig
from flows.stages.evaluate import COLUMNS
from flows.tracking import stage_run
from flows.tracking.client import client
from flows.tracking.origin import HOLD_VARIABLE

from .conftest import wait_for

IMAGES = 64


def write_model(directory: Path, accuracy: float) -> Path:
    """A registrable directory whose hypernetwork is worth so much on ten networks."""
    (directory / "artifacts").mkdir(parents=True)
    (directory / "artifacts" / "ghn.safetensors").write_text(str(accuracy))
    columns = {"images": IMAGES, "accuracy": accuracy, "randinit_accuracy": 0.1}
    rows = [
        {
            **identity(f"deepnets1m/test/{i}", "test", "ghn3", 1, "h"),
            **columns,
            "correct": pack(np.random.default_rng(i).random(IMAGES) < accuracy),
            "randinit_correct": pack(np.random.default_rng(i).random(IMAGES) < 0.1),
            "settings": json.dumps({"seed": 1}),
        }
        for i in range(10)
    ]
    write_rows(directory / "artifacts" / "evaluation.parquet", rows, COLUMNS)
    return directory


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tree whose registry has a champion and a better version that waits."""
    directory = tmp_path_factory.mktemp("approval")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{directory}/mlflow.db")
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.delenv(HOLD_VARIABLE, raising=False)
        for accuracy in (0.4, 0.7):
            register(directory, "ghn3", accuracy)
            patch.setenv(HOLD_VARIABLE, "1")
        yield directory


def register(directory: Path, name: str, accuracy: float) -> None:
    """What the stage does with a hypernetwork that is worth so much."""
    with stage_run("register", {}, connect_after_seconds=0) as run:
        model = write_model(directory / f"{name}-{accuracy}", accuracy)
        run.register_model(name, model, {}, "challenger", "a test")


@pytest.fixture
def deployment(server: SyncPrefectClient, tree: Path) -> UUID:
    """The deployment promote/approval."""
    return server.create_deployment(
        flow_id=server.create_flow(ask),
        name="approval",
        parameter_openapi_schema=parameter_schema(ask).model_dump_for_openapi(),
    )


@pytest.fixture
def waiting(server: SyncPrefectClient, deployment: UUID) -> FlowRun:
    """A run of the deployment that has asked."""
    run = server.create_flow_run_from_deployment(deployment, parameters={"version": "2"})
    state = work_on(server, run)
    assert (state.type.name, state.name) == ("PAUSED", "Suspended")
    return run


def work_on(server: SyncPrefectClient, run: FlowRun) -> State[Any]:
    """What a worker does with a run that is due."""
    fresh = server.read_flow_run(run.id)
    with suppress(Pause):  # how its process ends
        run_flow(ask, flow_run=fresh, parameters=fresh.parameters, return_type="state")
    state = server.read_flow_run(run.id).state
    assert state is not None
    return state


def tags(version: str) -> dict[str, str]:
    found: dict[str, str] = client().get_model_version("ghn3", version).tags
    return found


def champion(name: str = "ghn3") -> str:
    found = by_alias(name, "champion")
    assert found is not None
    return str(found.version)


def test_a_better_version_waits_and_is_refused_then_approved(
    server: SyncPrefectClient, waiting: FlowRun
) -> None:
    assert champion() == "1"
    assert tags("2")["promotion.decision"] == "waits for approval"
    keyset = waiting_keyset(server, waiting)
    form = server.read_flow_run_input(waiting.id, keyset["description"])
    assert "ghn3 version 2 instead of version 1?" in form
    assert "10 networks, 32 images" in form

    resume_flow_run(waiting.id, {"promote": False, "by": "Ada", "reason": "ViTs first"})
    assert work_on(server, waiting).is_completed()
    assert champion() == "1"
    refused = tags("2")
    assert refused["promotion.decision"] == "refused"
    assert (refused["approval.by"], refused["approval.comment"]) == ("Ada", "ViTs first")

    again = server.create_flow_run_from_deployment(waiting.deployment_id, parameters={})
    assert work_on(server, again).name == "Suspended"
    resume_flow_run(again.id, {"promote": True, "by": "Ada", "reason": ""})
    assert work_on(server, again).is_completed()
    assert champion() == "2"
    assert tags("2")["promotion.decision"] == "promoted"
    assert tags("2")["approval.answer"] == "approved"

    third = server.create_flow_run_from_deployment(waiting.deployment_id, parameters={})
    assert work_on(server, third).is_completed()  # the champion: there is nothing to ask


def test_an_answer_counts_also_where_the_champion_has_moved_meanwhile(
    server: SyncPrefectClient, deployment: UUID, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(HOLD_VARIABLE, raising=False)
    register(tree, "moved", 0.3)
    monkeypatch.setenv(HOLD_VARIABLE, "1")
    register(tree, "moved", 0.6)
    register(tree, "moved", 0.9)
    runs = [
        server.create_flow_run_from_deployment(
            deployment, parameters={"model": "moved", "version": number}
        )
        for number in ("2", "3")
    ]
    assert [work_on(server, run).name for run in runs] == ["Suspended", "Suspended"]
    assert promote("moved", "3").promoted  # by hand, before anybody fills in the forms
    for run in runs:
        resume_flow_run(run.id, {"promote": False, "by": "Ada", "reason": "ViTs first"})
        assert work_on(server, run).is_completed()
    assert champion("moved") == "3"
    said = [client().get_model_version("moved", number).tags for number in ("2", "3")]
    assert [tags["promotion.decision"] for tags in said] == ["refused", "promoted"]
    assert [tags["approval.by"] for tags in said] == ["Ada", "Ada"]


def test_a_model_of_any_name_that_is_allowed_can_be_approved_of(
    server: SyncPrefectClient, deployment: UUID, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = RegisterConfig(name="My_model 5").name
    monkeypatch.setenv(HOLD_VARIABLE, "1")
    register(tree, name, 0.7)
    run = server.create_flow_run_from_deployment(deployment, parameters={"model": name})
    assert work_on(server, run).name == "Suspended"
    resume_flow_run(run.id, {"promote": True, "by": "Ada", "reason": ""})
    assert work_on(server, run).is_completed()
    assert champion(name) == "1"
    assert pause_key("my-model-5", "1") != pause_key(name, "1")


@pytest.mark.slow
def test_a_run_that_waits_for_an_answer_is_not_taken_for_lost(
    server: SyncPrefectClient, deployment: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automations, "HEARTBEAT_SECONDS", 4)  # at least 10 s for three
    automation = server.create_automation(automations.lost_runs())
    lost, asks = (server.create_flow_run_from_deployment(deployment) for _ in range(2))
    for run in (lost, asks):
        for step in (Pending(), Running()):
            server.set_flow_run_state(run.id, step)
        heartbeat = Event(
            event="prefect.flow-run.heartbeat",
            resource=Resource({"prefect.resource.id": f"prefect.flow-run.{run.id}"}),
            occurred=datetime.now(UTC),
        )
        server._client.post("/events", json=[heartbeat.model_dump(mode="json")])
    server.set_flow_run_state(asks.id, Suspended(timeout_seconds=3600, pause_key="asked"))

    def crashed(run: FlowRun) -> bool:
        return server.read_flow_run(run.id).state_type == StateType.CRASHED

    wait_for("the lost run is marked", lambda: crashed(lost))
    time.sleep(10.0)  # the automation looks every five seconds
    server.delete_automation(automation)
    assert not crashed(asks)


def waiting_keyset(server: SyncPrefectClient, run: FlowRun) -> dict[str, str]:
    """The names under which the server keeps the form."""
    state = server.read_flow_run(run.id).state
    assert state is not None
    keyset = state.state_details.run_input_keyset
    assert keyset is not None
    return keyset
