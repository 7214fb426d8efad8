"""The stack of real servers, started once for all tests of this directory that need it."""

from __future__ import annotations

import shutil

import psutil
import pytest
from server_project import free_port, make_project


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    """The project with its stack up and prefect.yaml deployed; everything is stopped at the end."""
    project = make_project(tmp_path_factory.mktemp("stack") / "project")
    project.environment |= {
        "GHN_STACK_POSTGRES_PORT": str(free_port()),
        "GHN_STACK_PREFECT_PORT": str(free_port()),
        "GHN_STACK_MLFLOW_PORT": str(free_port()),
        "GHN_TEST_HOLD": str(project.root / "hold"),
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
    }
    try:
        up = project.ghn("stack", "up")
        assert "http://127.0.0.1" in up
        for line in project.ghn("stack", "env").splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            project.environment[name] = value
        assert "train/on-demand" in project.ghn("stack", "deploy").split()
        yield project
    finally:
        project.ghn("stack", "down", check=False)
        left = [
            p
            for p in psutil.process_iter(["cmdline"])
            if str(project.root) in " ".join(p.info["cmdline"] or [])
        ]
        for process in left:
            process.kill()
        # Under root PostgreSQL's data may be outside of the (private) temporary directory.
        shutil.rmtree((project.root / ".stack" / "postgres").resolve(), ignore_errors=True)
