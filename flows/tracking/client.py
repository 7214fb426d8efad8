"""The MLflow store of the pipeline: where it is, whether it answers, and a client of it.

The store is `MLFLOW_TRACKING_URI`, or else SQLite in the tree. A DVC experiment may run in a
directory of its own that is removed afterwards (`dvc exp run --queue`,
`flows.orchestration.workspace`): its store and its spool are those of the tree that it came from.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ghn.addresses import first_line, request, split_credentials, without_credentials
from ghn.errors import GHNError
from ghn.files import atomic_path, remove_leftovers
from ghn.locks import locked

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

MODE = "?workflowType=machine_learning"
"""At the end of a link to a page of an experiment, for the same reason."""

PROBE_SECONDS = 3.0
"""How long a store may take to say that it is there."""

ANSWER_SECONDS = 300
"""How long a store that is there may take for one answer: a server that keeps files elsewhere
answers an upload of gigabytes when it has passed them on.
"""

_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_checked: set[str] = set()


class TrackingError(GHNError):
    """The MLflow store cannot be used; the message says which, why, and what to do."""


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the SQLite file in the tree."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def shown_uri() -> str:
    """The same to be printed, logged and linked: without credentials."""
    return without_credentials(tracking_uri())


def run_page(experiment: str, run_id: str) -> str:
    """The address of a run's page; where the store is a file, on the server that `mlflow ui`
    starts.

    Args:
        experiment: its id.
        run_id: of the run.
    """
    store = shown_uri()
    server = store.rstrip("/") if store.startswith("http") else "http://127.0.0.1:5000"
    return f"{server}/#/experiments/{experiment}/runs/{run_id}{MODE}"


def client_uri() -> str:
    """The same for MLflow's clients, which repeat it in what they raise and log: the credentials of
    a server are in MLflow's own variables (`_configure`).
    """
    return _server_credentials()[0]


def _server_credentials() -> tuple[str, str, str]:
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        address, user, password = split_credentials(uri)
        if user and password:
            return address, user, password
    return uri, "", ""


def unreachable(seconds: float = PROBE_SECONDS) -> str | None:
    """Why the store does not answer; None if it does, or is no server.

    MLflow itself asks a database that is away ten times, and waits for a server as long as for an
    upload.
    """
    uri = tracking_uri()
    try:
        if uri.startswith(("http://", "https://")):
            asked = request(f"{uri.rstrip('/')}/health")
            urllib.request.urlopen(asked, timeout=seconds).close()
        elif (port := _PORTS.get(urlsplit(uri).scheme.partition("+")[0])) and (
            host := urlsplit(uri).hostname
        ):
            socket.create_connection((host, urlsplit(uri).port or port), seconds).close()
    except urllib.error.HTTPError:  # an answer
        return None
    except urllib.error.URLError as error:
        return None if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except OSError as error:
        return first_line(error)
    except (HTTPException, ValueError) as error:  # whose text may have a part of a password
        return f"no address of a server that answers: {type(error).__name__}"
    return None


def client(create: bool = True) -> MlflowClient:
    """An MLflow client of a store that answers.

    Args:
        create: make the SQLite file if there is none.

    Raises:
        TrackingError: the store is away, damaged, of another version of MLflow, or not there.
    """
    if reason := unreachable():
        raise TrackingError(
            f"The MLflow store {shown_uri()} is not available ({reason}); start it, or set"
            " MLFLOW_TRACKING_URI"
        )
    if not create and (file := _sqlite_file()) and not file.exists():
        raise TrackingError(
            f"There is no MLflow store here ({file}); go to the checkout that has it, or set"
            " MLFLOW_TRACKING_URI"
        )
    _configure()
    import mlflow.store.db.utils
    from mlflow import MlflowClient

    mlflow.store.db.utils.MAX_RETRY_COUNT = 3  # ten tries take 100 s; no variable says so
    try:
        if (file := _sqlite_file()) and not file.exists():
            _make(file)
        made = MlflowClient(tracking_uri=client_uri())
        if tracking_uri() not in _checked:
            made.search_experiments(max_results=1)
    except Exception as error:  # of MLflow, SQLAlchemy, Alembic, a driver
        raise TrackingError(_diagnosis(error)) from error
    _checked.add(tracking_uri())
    return made


def _make(file: Path) -> None:
    """Makes a SQLite store, whole or not at all: MLflow makes its tables in fifty steps, and no
    later one of half of them.
    """
    from mlflow import MlflowClient

    journal = file.with_name(f"{file.name}-journal")
    with locked(file.with_name(f"{file.name}.lock")):
        remove_leftovers(file, journal)
        if not file.exists():  # another process was faster
            with atomic_path(file) as temporary:
                MlflowClient(f"sqlite:///{temporary}").search_experiments(max_results=1)


def _configure() -> None:
    """What MLflow reads from the environment; what is set there already holds."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(ANSWER_SECONDS),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "true",  # falls back where the server cannot
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "GIT_PYTHON_REFRESH": "quiet",
        "PGCONNECT_TIMEOUT": "10",
    }.items():
        os.environ.setdefault(name, value)
    _, user, password = _server_credentials()
    if user:  # those in an address go before others, as MLflow has it
        os.environ["MLFLOW_TRACKING_USERNAME"] = user
        os.environ["MLFLOW_TRACKING_PASSWORD"] = password
    logging.getLogger("alembic").setLevel(logging.WARNING)  # the creation of tables, line by line
    # It writes a traceback of each exception that it raises.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _sqlite_file() -> Path | None:
    path = tracking_uri().removeprefix("sqlite:///")
    return Path(path) if path != tracking_uri() and path not in ("", ":memory:") else None


def _diagnosis(error: Exception) -> str:
    reason = first_line(error)
    text = f"The MLflow store {shown_uri()} cannot be used ({reason})"
    if re.search(r"revision|schema", reason, re.IGNORECASE):
        return (
            f"{text}: another version of MLflow wrote it; `mlflow db upgrade` with that address"
            " brings an older one up to date, a newer one needs that MLflow"
        )
    if (file := _sqlite_file()) is None:
        return f"{text}; see its log, and MLFLOW_TRACKING_URI"
    if "locked" in reason:
        return f"{text}: another program writes {file}; try again"
    return f"{text}; if {file} is damaged, move it away, and the next stage begins a new one"


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
