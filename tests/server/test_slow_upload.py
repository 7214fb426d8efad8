"""A model goes to a real MLflow server over a link that takes longer than any answer may."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from server_project import free_port, patience, wait_for

from flows.tracking import client, stage_run

pytestmark = [pytest.mark.server, pytest.mark.slow]

SIZE = 6_000_000
"""Bytes of the artifact."""

ANSWER_SECONDS = 8.0
"""What an answer may take on a quiet machine; the upload takes one and a half times as long."""

ROOM = 65_536
"""Bytes that the link takes before it has passed them on: megabytes by default, and a client that
has handed all of them over waits for its answer while they are on their way.
"""


class SlowLink:
    """Passes connections on to `port`; what a client sends, at `rate` bytes a second for all
    together.
    """

    def __init__(self, port: int, rate: float) -> None:
        self.port, self.rate, self.sent = port, rate, 0
        self._pace = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self.port))
                for ends in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, to: socket.socket, slow: bool) -> None:
        with suppress(OSError):
            while block := source.recv(16_384):
                if slow:
                    with self._pace:
                        time.sleep(len(block) / self.rate)
                        self.sent += len(block)
                to.sendall(block)
        for end in (source, to):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def answer_seconds() -> float:
    """What an answer may take on a machine that is as busy as this one."""
    return patience(ANSWER_SECONDS)


@pytest.fixture
def link(tmp_path: Path, answer_seconds: float) -> Iterator[SlowLink]:
    """The link to a server of its own."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{tmp_path}/store.db", "--workers", "1"),
        *("--artifacts-destination", str(tmp_path / "artifacts"), "--serve-artifacts"),
    ]
    server = subprocess.Popen(command, cwd=tmp_path, process_group=0)

    def answers() -> bool:
        with suppress(OSError):
            urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return True
        return False

    try:
        wait_for("the server answers", answers)
        with closing(SlowLink(port, SIZE / (1.5 * answer_seconds))) as slow:
            yield slow
    finally:
        server.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_large_model_arrives_over_a_slow_link(
    link: SlowLink, answer_seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", link.url)
    # An answer may take less than the upload: what counts is that bytes flow.
    monkeypatch.setattr(client, "ANSWER_SECONDS", round(answer_seconds))
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    model = tmp_path / "model"
    (model / "artifacts").mkdir(parents=True)
    content = hashlib.shake_256(b"weights").digest(SIZE)
    (model / "artifacts" / "ghn.safetensors").write_bytes(content)
    (model / "MLmodel").write_text("flavors: {}\n")
    started = time.monotonic()
    with stage_run("register", {}, connect_after_seconds=0) as run:
        run.register_model("ghn3", model, {"variant": "x"}, "challenger", "a test")
    assert time.monotonic() - started > answer_seconds
    assert link.sent > SIZE
    version = MlflowClient(link.url).get_model_version_by_alias("ghn3", "challenger")
    assert version.status == "READY"
    found = Path(download_artifacts(f"models:/ghn3/{version.version}", tracking_uri=link.url))
    assert (found / "artifacts" / "ghn.safetensors").read_bytes() == content
    assert not list(Path(".mlflow-spool").glob("*.jsonl"))  # nothing waits
