"""The whole stack: what it consists of, up, down, status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from flows.compute import gpus
from flows.compute.shell import environment
from flows.orchestration.limits import HEARTBEAT_SECONDS, POOLS, TRAINING_LIMIT
from flows.settings.imports import ROOT
from flows.stack import postgres
from flows.stack.config import StackConfig
from flows.stack.service import Service, ServiceError

PYTHON_PROGRAMS = Path(sys.executable).parent


def services(config: StackConfig) -> Iterator[Service]:
    """In the order of starting; stopping goes the other way."""
    yield postgres.service(config)
    yield _prefect(config)
    yield _mlflow(config)
    for pool in POOLS:
        yield _worker(config, pool)


def up(config: StackConfig, report: Callable[[str], None]) -> None:
    """Starts what does not run, in order, each after the one before answers; `report` gets a line
    per step.

    Raises:
        ConfigError: PostgreSQL is missing or a port is taken.
        ServiceError: a server did not start.
    """
    config.directory.mkdir(parents=True, exist_ok=True)
    if all(service.process() is None for service in services(config)):
        config.check_ports()
    postgres.create_cluster(config)
    for service in services(config):
        if service.name == f"worker-{POOLS[0]}":
            _create_pools(config)
        started = service.start()
        report(f"{service.name} {'started' if started else 'runs already'}")
        if service.name == "postgres":
            postgres.create_databases(config)


def down(config: StackConfig, report: Callable[[str], None]) -> None:
    """Stops everything, workers first (their flow runs end with them); data stays."""
    for service in reversed(list(services(config))):
        report(f"{service.name} {'stopped' if service.stop() else 'was not running'}")


def status(config: StackConfig) -> dict[str, str]:
    """State of each service by name."""
    states = {}
    for service in services(config):
        process = service.process()
        if process is None:
            states[service.name] = "not running"
        else:
            answers = "answers" if service.ready() else "does not answer"
            states[service.name] = f"pid {process.pid}, {answers}"
    return states


def prefect_environment(config: StackConfig) -> dict[str, str]:
    """What every Prefect process of the stack shares; its home is in the stack, so the user's
    profile is left alone.
    """
    return {
        **environment(),
        **config.client_environment(),
        "PREFECT_HOME": str(config.directory / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def prefect(config: StackConfig, *arguments: str, extra: Mapping[str, str] | None = None) -> str:
    """Runs a `prefect` command against the stack's server and returns its output; `extra` goes to
    its environment.

    Raises:
        ServiceError: it failed.
    """
    command = [str(PYTHON_PROGRAMS / "prefect"), "--no-prompt", *arguments]
    variables = {**prefect_environment(config), **(extra or {})}
    result = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True)
    if result.returncode != 0:
        raise ServiceError(f"prefect {' '.join(arguments)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def deploy(config: StackConfig) -> list[str]:
    """Applies prefect.yaml and `flows.stack.automations` to the server; returns the deployments, as
    `flow/name`.

    Raises:
        ServiceError: the server is away, or refuses a deployment.
    """
    if not _prefect(config).ready():
        raise ServiceError(f"no Prefect answers at {config.prefect_url}; `ghn stack up` starts it")
    # Of prefect.yaml's pull step: where the workers' checkout is, if not here.
    root = {"GHN_ROOT": os.environ.get("GHN_ROOT") or str(ROOT)}
    prefect(config, "deploy", "--all", "--prefect-file", str(ROOT / "prefect.yaml"), extra=root)
    from flows.orchestration import automations, pools

    with pools.server(config.prefect_api) as client:
        automations.apply(client)
    listed = json.loads(prefect(config, "deployment", "ls", "--output", "json"))
    return sorted(f"{entry['entrypoint'].split(':')[1]}/{entry['name']}" for entry in listed)


def _prefect(config: StackConfig) -> Service:
    return Service(
        "prefect",
        [
            *(str(PYTHON_PROGRAMS / "prefect"), "server", "start"),
            *("--host", config.host, "--port", str(config.prefect_port)),
        ],
        config.directory,
        _answers(f"{config.prefect_url}/api/health"),
        environment={
            **prefect_environment(config),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": config.database("prefect", "asyncpg"),
            "PREFECT_SERVER_UI_API_URL": f"{config.prefect_url}/api",
            "PREFECT_UI_URL": config.prefect_url,  # of the links in messages
        },
        cwd=ROOT,
    )


def _mlflow(config: StackConfig) -> Service:
    artifacts = config.directory / "mlartifacts"
    return Service(
        "mlflow",
        [
            *(
                str(PYTHON_PROGRAMS / "mlflow"),
                "server",
                "--host",
                config.host,
                "--port",
                str(config.mlflow_port),
            ),
            *("--workers", "2", "--serve-artifacts", "--artifacts-destination", artifacts.as_uri()),
        ],
        config.directory,
        _answers(f"{config.mlflow_url}/health"),
        environment={
            **environment(),
            # In the environment and not on the command line: other users can read that.
            "MLFLOW_BACKEND_STORE_URI": config.database("mlflow", "psycopg2"),
            "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": config.webhook_key,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        cwd=config.directory,
    )


def _worker(config: StackConfig, pool: str) -> Service:
    name = f"{pool}-1"

    def polls() -> bool:
        from flows.orchestration import pools

        process = worker.process()
        since = datetime.fromtimestamp(process.create_time(), tz=UTC) if process else None
        return since is not None and pools.polls(config.prefect_api, pool, name, since)

    devices = gpus.visible()[: config.training_slots]
    worker = Service(
        f"worker-{pool}",
        [
            *(
                str(PYTHON_PROGRAMS / "prefect"),
                "worker",
                "start",
                "--pool",
                pool,
                "--type",
                "process",
            ),
            *("--name", name, "--limit", str(_limit(config, pool))),
        ],
        config.directory,
        polls,
        environment={
            **prefect_environment(config),
            **({gpus.VARIABLE: ",".join(devices)} if devices else {}),
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
            "PYTHONUNBUFFERED": "1",
        },
        cwd=ROOT,
    )
    return worker


def _create_pools(config: StackConfig) -> None:
    """Creates or updates the work pools, and the limit of trainings at once, wherever they run."""
    from flows.orchestration import pools

    pools.create(
        config.prefect_api,
        {pool: _limit(config, pool) for pool in POOLS},
        {TRAINING_LIMIT: config.training_slots},
    )


def _limit(config: StackConfig, pool: str) -> int:
    return config.training_slots if pool == "gpu" else config.cpu_slots


def _answers(url: str) -> Callable[[], bool]:
    def ready() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    return ready
