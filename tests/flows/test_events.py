"""Events as a Prefect server receives them."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.server.events.schemas.events import Event

from flows.tracking import events

from .conftest import Receiver


def test_an_event_is_what_prefect_reads(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"{receiver.url}/api")
    events.outputs_changed("generate@train", Path("/tree"), dependents_run=False)
    (post,) = receiver.posts
    assert post.path == "/api/events"
    (entry,) = post.body
    event = Event.model_validate(entry)
    assert event.event == "ghn.data.changed"
    assert event.resource["prefect.resource.id"] == "ghn.stage.generate@train"
    assert event.resource["ghn.dependents"] == "waiting"


def test_an_address_may_end_in_a_slash(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"{receiver.url}/api/")  # as Prefect takes it
    events.champion_changed("ghn3", "7", "better")
    assert [post.path for post in receiver.posts] == ["/api/events"]


def test_credentials_of_the_address_are_told_to_the_server_alone(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = receiver.url.replace("http://", "http://alice:s3cret@")
    monkeypatch.setenv("PREFECT_API_URL", f"{address}/api")
    events.champion_changed("ghn3", "7", "better")
    (post,) = receiver.posts
    assert post.headers["Authorization"] == "Basic YWxpY2U6czNjcmV0"
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("PREFECT_API_URL", "http://alice:s3cret@127.0.0.1:9/api")
    events.champion_changed("ghn3", "7", "better")
    assert "Prefect at http://127.0.0.1:9/api was not told" in capsys.readouterr().err


def test_a_server_that_is_away_costs_a_line_and_none_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    events.champion_changed("ghn3", "7", "better")
    assert "was not told of ghn.champion.changed" in capsys.readouterr().err
    monkeypatch.delenv("PREFECT_API_URL")
    events.champion_changed("ghn3", "7", "better")
    assert capsys.readouterr().err == ""
