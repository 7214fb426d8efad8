"""prefect.yaml and deploy/git.yaml as `prefect deploy` and workers read them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.steps.core import run_steps
from prefect.utilities.asyncutils import run_coro_as_sync

ROOT = Path(__file__).resolve().parents[3]


def deploy(server: SyncPrefectClient, file: str, **variables: str) -> None:
    """What `ghn stack deploy` does with a file."""
    content = yaml.safe_load((ROOT / file).read_text())
    for pool in {deployment["work_pool"]["name"] for deployment in content["deployments"]}:
        server.create_work_pool(WorkPoolCreate(name=pool, type="process"), overwrite=True)
    environment = {**os.environ, "PREFECT_API_URL": str(server.api_url).rstrip("/"), **variables}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(
        [*command, "--prefect-file", file],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_deployments_have_menus_and_what_starts_them(server: SyncPrefectClient) -> None:
    deploy(server, "prefect.yaml", GHN_ROOT="/srv/ghn3")
    nightly = server.read_deployment_by_name("pipeline/nightly")
    assert nightly.pull_steps == [
        {"prefect.deployments.steps.set_working_directory": {"directory": "/srv/ghn3"}}
    ]
    form = nightly.parameter_openapi_schema["properties"]
    assert "evaluate" in form["targets"]["anyOf"][0]["items"]["enum"]
    (asks,) = server.read_automations_by_name("ghn-ask-about-a-challenger") or [None]
    assert asks is not None
    (action,) = asks.actions
    assert action.parameters == {
        "model": "{{ event.payload.model }}",
        "version": "{{ event.payload.version }}",
    }
    assert action.deployment_id == server.read_deployment_by_name("promote/approval").id


@pytest.mark.slow
def test_jobs_without_a_checkout_clone_one_and_get_its_data(
    server: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, remote = make_repository(tmp_path), tmp_path / "remote"
    deploy(server, "deploy/git.yaml", GHN_REPOSITORY=f"file://{repository}", GHN_BRANCH="main")
    steps = server.read_deployment_by_name("train/docker").pull_steps
    assert steps is not None
    assert remote.exists()
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    output: dict[str, Any] = run_coro_as_sync(run_steps(steps))
    clone = Path(output["directory"])
    assert clone == tmp_path / "job" / "ghn3-tree"
    assert Path.cwd() == clone  # where Prefect looks for the flow
    assert (clone / "weights").read_text() == "1 2 3\n"  # of the remote, not of git
    assert "up to date" in dvc(clone, "status")


def make_repository(directory: Path) -> Path:
    """A repository with a pushed output, whose DVC remote is a directory."""
    root = directory / "repository"
    root.mkdir()
    stage = "stages: {train: {cmd: echo 1 2 3 > weights, outs: [weights]}}\n"
    (root / "dvc.yaml").write_text(stage)
    git(root, "init", "-q", "-b", "main")
    dvc(root, "init", "-q")
    dvc(root, "remote", "add", "--default", "storage", str(directory / "remote"))
    dvc(root, "repro", "-q")
    git(root, "add", "-A")
    git(root, "-c", "user.name=test", "-c", "user.email=t@example.org", "commit", "-qm", "trained")
    dvc(root, "push", "-q", "--run-cache")
    return root


def git(directory: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=directory, check=True)


def dvc(directory: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout
