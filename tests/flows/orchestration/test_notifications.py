"""Messages of a real server to a real webhook."""

from __future__ import annotations

from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Crashed, Failed, Pending, Running, State

from flows.orchestration import automations, notifications
from flows.orchestration.pipeline import pipeline
from flows.tracking.events import champion_drifted
from ghn.errors import ConfigError

from ..conftest import Receiver
from .conftest import wait_for


def test_what_failed_crashed_or_drifted_is_told_of(
    server: SyncPrefectClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(notifications.ADDRESS, f"{receiver.url}/secret-part")
    for _ in range(2):  # a second deployment makes no second message
        automations.apply(server)
    monkeypatch.setenv("PREFECT_API_URL", str(server.api_url).rstrip("/"))
    flow = server.create_flow(pipeline)

    def ends(deployment: str, state: State) -> None:
        identifier = server.create_deployment(flow_id=flow, name=deployment)
        run = server.create_flow_run_from_deployment(identifier, name=f"run-{uuid4().hex[:4]}")
        for step in (Pending(), Running(), state):
            server.set_flow_run_state(run.id, step, force=True)

    def texts() -> list[str]:
        return [post.body["text"] for post in receiver.posts]

    def told(word: str) -> str:
        text: str = wait_for(
            f"a message with {word}", lambda: next((m for m in texts() if word in m), "")
        )
        return text

    ends("gpu", Failed(message="the other run tells"))
    ends("nightly", Failed(message="1 of 9 stages did not complete"))
    text = told("1 of 9 stages")
    assert text.startswith("*pipeline/nightly failed*\nrun-")
    assert "\nhttp://prefect.example.org/runs/flow-run/" in text
    ends("nightly", Crashed(message="its machine is gone"))
    assert told("machine is gone").startswith("*pipeline/nightly crashed*")
    champion_drifted("ghn3", "7", -0.031)
    assert told("drifted") == (
        "*ghn3 version 7 drifted*\nIts accuracy has changed by -0.031 since it was registered,"
        " which is more than noise."
    )
    assert len(texts()) == 3
    kept = server._client.post("/block_documents/filter", json={}).text
    assert notifications.BLOCK in kept
    assert "secret-part" not in kept


def test_without_an_address_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(notifications.ADDRESS, raising=False)
    assert notifications.automations() == []
    monkeypatch.setenv(notifications.ADDRESS, "me@example.org")
    with pytest.raises(ConfigError, match="GHN_NOTIFY_URL is no address of a webhook"):
        notifications.automations()
