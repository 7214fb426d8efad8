"""The MLflow store of the pipeline: where it is, and how the lines of a stage's log become calls.

The store is `MLFLOW_TRACKING_URI`, or else SQLite in the tree. `flows.tracking.run` writes the
logs, `flows.tracking.spool` keeps those that could not be sent yet. A DVC experiment may run in a
directory of its own that is removed afterwards (`dvc exp run --queue`,
`flows.orchestration.workspace`): its store and its spool are those of the tree that it came from.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

TREE = Path(os.environ.get("DVC_ROOT", ""))
"""Where DVC says to stages that the tree is; the present directory without it."""

DEFAULT_URI = f"sqlite:///{TREE / 'mlflow.db'}"
ARTIFACTS = TREE / "mlartifacts"
SPOOL = TREE / ".mlflow-spool"
"""The logs that wait, and models that wait for their upload."""

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's pages show runs and metrics instead of traces of chats."""

Op = dict[str, Any]
"""A line of a log: `op` (a method of `Sender`), `time_ms`, and what that method takes."""


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the SQLite file in the tree."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def client(timeout_seconds: int = 10, retries: int = 2) -> MlflowClient:
    """An MLflow client of `tracking_uri()` that gives up on an absent server after seconds instead
    of minutes.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(timeout_seconds))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(retries))
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)  # the creation of tables, line by line
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri())


def experiment_id(mlflow_client: MlflowClient, name: str) -> str:
    """The id of experiment `name`, created if need be (artifacts of a local store go to
    `mlartifacts/`).
    """
    from mlflow.exceptions import MlflowException

    found = mlflow_client.get_experiment_by_name(name)
    if found is None:
        local = not tracking_uri().startswith(("http://", "https://", "databricks"))
        location = ARTIFACTS.resolve().as_uri() if local else None
        try:
            return str(mlflow_client.create_experiment(name, artifact_location=location, tags=KIND))
        except MlflowException:  # another stage was faster
            found = mlflow_client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


class Sender:
    """Turns spooled operations into MLflow calls. One instance per run."""

    def __init__(self) -> None:
        self.run_id: str | None = None
        self._client: MlflowClient | None = None

    def send(self, op: Op) -> None:
        """Carries out one operation; any exception of MLflow or of the network passes through."""
        if self._client is None:
            self._client = client()
        if op["op"] == "start":
            self._start(self._client, op)
        else:
            if self.run_id is None:
                raise ValueError("the log of a run does not begin with its start")
            getattr(self, "_" + op["op"])(self._client, self.run_id, op)

    def _start(self, mlflow_client: MlflowClient, op: Op) -> None:
        from mlflow.entities import Param

        experiment = experiment_id(mlflow_client, op["experiment"])
        # A log that was sent in part before goes into the run that it began.
        found = mlflow_client.search_runs(
            [experiment], f"tags.log = '{op['tags']['log']}'", max_results=1
        )
        run = (
            found[0]
            if found
            else mlflow_client.create_run(
                experiment, start_time=op["time_ms"], tags=op["tags"], run_name=op["name"]
            )
        )
        self.run_id = run.info.run_id
        params = [Param(key, value) for key, value in op["params"].items()]
        for begin in range(0, len(params), 100):
            mlflow_client.log_batch(self.run_id, params=params[begin : begin + 100])

    def _inputs(self, mlflow_client: MlflowClient, run_id: str, op: Op) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=entry["path"],
                    digest=entry["md5"][:36],
                    source_type="local",
                    source=json.dumps({"uri": entry["path"]}),
                ),
                [InputTag("mlflow.data.context", "input")],
            )
            for entry in op["inputs"]
        ]
        mlflow_client.log_inputs(run_id, inputs)

    def _metrics(self, mlflow_client: MlflowClient, run_id: str, op: Op) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, op["time_ms"], op["step"]) for key, value in op["metrics"].items()
        ]
        for begin in range(0, len(metrics), 1000):
            mlflow_client.log_batch(run_id, metrics=metrics[begin : begin + 1000])

    def _tags(self, mlflow_client: MlflowClient, run_id: str, op: Op) -> None:
        from mlflow.entities import RunTag

        mlflow_client.log_batch(
            run_id, tags=[RunTag(key, value) for key, value in op["tags"].items()]
        )

    def _artifact(self, mlflow_client: MlflowClient, run_id: str, op: Op) -> None:
        path = Path(op["path"])
        if path.is_dir():
            mlflow_client.log_artifacts(run_id, str(path), op["to"])
        elif path.exists():
            mlflow_client.log_artifact(run_id, str(path), op["to"])

    def _register(self, mlflow_client: MlflowClient, run_id: str, op: Op) -> None:
        from mlflow.exceptions import MlflowException

        self._artifact(mlflow_client, run_id, {"path": op["path"], "to": "model"})
        try:
            mlflow_client.create_registered_model(op["name"])
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # A log that was sent in part before may have made its version.
        made = mlflow_client.search_model_versions(f"name = '{op['name']}' and run_id = '{run_id}'")
        version = (
            made[0]
            if made
            else mlflow_client.create_model_version(
                op["name"],
                source=f"{mlflow_client.get_run(run_id).info.artifact_uri}/model",
                run_id=run_id,
                tags=op["tags"],
                description=op["description"],
            )
        )
        mlflow_client.set_registered_model_alias(op["name"], op["alias"], version.version)
        if SPOOL.resolve() in Path(op["path"]).resolve().parents:  # made for this upload
            shutil.rmtree(op["path"], ignore_errors=True)
        from flows.registry.registry import RegistryError, promote

        try:
            decision = promote(op["name"], version.version, mlflow_client=mlflow_client)
        except RegistryError as error:  # a version without an evaluation: nothing to compare
            print(f"{op['name']} version {version.version}: {error}", file=sys.stderr)
        else:
            verdict = "is the champion" if decision.promoted else "stays a challenger"
            print(f"{op['name']} version {version.version} {verdict}: {decision.reason}")

    def _end(self, mlflow_client: MlflowClient, run_id: str, op: Op) -> None:
        mlflow_client.set_terminated(run_id, status=op["status"], end_time=op["time_ms"])
