"""The MLflow store of the pipeline: where it is, and a client of it.

The store is `MLFLOW_TRACKING_URI`, or else SQLite in the tree. A DVC experiment may run in a
directory of its own that is removed afterwards (`dvc exp run --queue`,
`flows.orchestration.workspace`): its store and its spool are those of the tree that it came from.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

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
