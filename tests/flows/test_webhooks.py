"""MLflow tells a receiver when an alias moves: server and receiver are real."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from flows.registry.lookup import RegistryError
from flows.registry.webhooks import NAME, announce, silence
from flows.tracking.client import client

from .conftest import Receiver


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An MLflow server that may post to this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    environment = {
        **os.environ,
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https,http",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    store = f"sqlite:///{tmp_path}/mlflow.db"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--backend-store-uri", store],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while not answers(url):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.server
def test_a_receiver_is_told_when_an_alias_moves(server: str, receiver: Receiver) -> None:
    address = f"{receiver.url}/moved"
    with pytest.raises(RegistryError, match=r"MLflow does not take ftp://example\.org"):
        announce("ftp://example.org")
    announce("http://127.0.0.1:9/old")
    assert announce(address, "a secret").url == address
    mlflow_client = client()
    assert [hook.name for hook in mlflow_client.list_webhooks()] == [NAME]
    mlflow_client.create_registered_model("ghn3")
    mlflow_client.create_model_version("ghn3", "s3://bucket/model")
    mlflow_client.set_registered_model_alias("ghn3", "champion", "1")
    deadline = time.monotonic() + 60
    while not receiver.posts and time.monotonic() < deadline:
        time.sleep(0.1)
    (post,) = receiver.posts
    assert (post.body["entity"], post.body["action"]) == ("model_version_alias", "created")
    assert post.body["data"] == {"name": "ghn3", "alias": "champion", "version": "1"}
    assert post.headers["X-MLflow-Signature"].startswith("v1,")
    assert silence()
    assert not silence()


def test_a_store_without_a_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    with pytest.raises(RegistryError, match=r"sqlite:///mlflow\.db is no server"):
        announce("https://example.org")
