"""Events as a Prefect server receives them."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prefect.server.events.schemas.events import Event

from flows.tracking import events


def test_an_event_is_what_prefect_reads_and_a_server_that_is_away_costs_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    received: list[tuple[str, dict]] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.extend((self.path, entry) for entry in json.loads(body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    events.outputs_changed("generate@train", Path("/tree"), dependents_run=False)
    thread.join()
    server.server_close()
    ((path, entry),) = received
    event = Event.model_validate(entry)
    assert path == "/api/events"
    assert event.event == "ghn.data.changed"
    assert event.resource["prefect.resource.id"] == "ghn.stage.generate@train"
    assert event.resource["ghn.dependents"] == "waiting"
    events.champion_changed("ghn3", "7", "better")
    assert "was not told of ghn.champion.changed" in capsys.readouterr().err
    monkeypatch.delenv("PREFECT_API_URL")
    events.champion_changed("ghn3", "7", "better")
    assert capsys.readouterr().err == ""
