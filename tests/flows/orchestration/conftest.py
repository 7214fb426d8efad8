"""A Prefect server for the tests of flows, started once, and small trees to run them in."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import (
    PREFECT_LOGGING_TO_API_BATCH_INTERVAL,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS,
    PREFECT_UI_URL,
    temporary_settings,
)
from prefect.testing.utilities import prefect_test_harness

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def server() -> Iterator[SyncPrefectClient]:
    """A client of a server of its own, with an empty database."""
    settings = {
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
        PREFECT_LOGGING_TO_API_BATCH_INTERVAL: 0.2,
        PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS: 0.2,
        PREFECT_UI_URL: "http://prefect.example.org",
    }
    with (
        temporary_settings(settings),
        prefect_test_harness(server_startup_timeout=180),
        get_client(sync_client=True) as client,
    ):
        yield client


def make_tree(directory: Path, dvc_yaml: str) -> Path:
    """A tree with a dvc.yaml of its own and the parameters of the checkout."""
    directory.mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", directory)
    (directory / "dvc.yaml").write_text(dvc_yaml)
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=directory, check=True
    )
    return directory


def wait_for(what: str, look: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What `look` finds as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    raise TimeoutError(f"not within {seconds:.0f} s: {what}")


def events(client: SyncPrefectClient, prefix: str, flow_run: Any) -> list[dict[str, Any]]:
    """The events of a kind that a flow run has sent, oldest first."""
    related = {"resources_in_roles": [[f"prefect.flow-run.{flow_run}", "flow-run"]]}
    query = {"filter": {"event": {"prefix": [prefix]}, "related": related, "order": "ASC"}}
    found: list[dict[str, Any]] = client._client.post("/events/filter", json=query).json()["events"]
    return found
