"""How the lines of a stage's log become calls of MLflow.

What a run is made of is carried out here. An operation of a floor above, such as a registration, is
named in `ELSEWHERE` and imported when its line is sent: a log may be sent by a process that knows
nothing of that floor (the next stage, `ghn mlflow sync`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from flows.tracking.client import client, experiment_id, unreachable

if TYPE_CHECKING:
    from mlflow import MlflowClient

Op = dict[str, Any]
"""A line of a log: `op` (a method of `Sender`, or a key of `ELSEWHERE`), `time_ms`, and what that
takes.
"""

Operation = Callable[["MlflowClient", str, Op], None]
"""Carries out a line for the run of that id."""

ELSEWHERE = {"register": "flows.registry.registration:register"}
"""Operations (`Operation`) that are not of a run itself, by name."""


UPLOADS = ("artifact", "register")

_REFUSED = re.compile(r"[^\w .:/-]|(?:^|(?<=/))[./]+|/$", re.ASCII)
"""What MLflow refuses in the names of metrics, parameters and tags: other characters than these,
and what is no path in its shortest form. A whole log would wait for ever for the sake of one name.
"""

_LONGEST_NAME = 250  # characters; MLflow refuses longer ones


class Sender:
    """Turns spooled operations into MLflow calls. One instance per run."""

    def __init__(self) -> None:
        self.run_id: str | None = None
        self._client: MlflowClient | None = None
        self._failure: Exception | None = None

    def send(self, op: Op) -> None:
        """Carries out one operation.

        Any exception of MLflow or of the network passes through; that of an upload while the store
        answers waits for `finish`, so that the run gets what follows, its end above all.
        """
        if self._client is None:
            self._client = client()
        if op["op"] == "start":
            self._start(self._client, op)
        else:
            if self.run_id is None:
                raise ValueError("the log of a run does not begin with its start")
            try:
                self._operation(op["op"])(self._client, self.run_id, op)
            except Exception as error:
                if op["op"] not in UPLOADS or unreachable():
                    raise
                self._failure = self._failure or error

    def finish(self) -> None:
        """Raises the first exception of an upload, if there was one."""
        if self._failure is not None:
            raise self._failure

    def _operation(self, name: str) -> Operation:
        known: Operation = (
            resolve_name(ELSEWHERE[name]) if name in ELSEWHERE else getattr(self, f"_{name}")
        )
        return known

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
                experiment,
                start_time=op["time_ms"],
                tags={_name(key): value for key, value in op["tags"].items()},
                run_name=op["name"],
            )
        )
        self.run_id = run.info.run_id
        params = [Param(_name(key), value) for key, value in op["params"].items()]
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
            Metric(_name(key), value, op["time_ms"], op["step"])
            for key, value in op["metrics"].items()
        ]
        for begin in range(0, len(metrics), 1000):
            mlflow_client.log_batch(run_id, metrics=metrics[begin : begin + 1000])

    def _tags(self, mlflow_client: MlflowClient, run_id: str, op: Op) -> None:
        from mlflow.entities import RunTag

        mlflow_client.log_batch(
            run_id, tags=[RunTag(_name(key), value) for key, value in op["tags"].items()]
        )

    def _artifact(self, mlflow_client: MlflowClient, run_id: str, op: Op) -> None:
        upload(mlflow_client, run_id, Path(op["path"]), op["to"])

    def _end(self, mlflow_client: MlflowClient, run_id: str, op: Op) -> None:
        mlflow_client.set_terminated(run_id, status=op["status"], end_time=op["time_ms"])


def _name(text: str) -> str:
    """`text` as the name of a metric, parameter or tag, what MLflow refuses replaced."""
    return _REFUSED.sub("_", text)[:_LONGEST_NAME]


def upload(mlflow_client: MlflowClient, run_id: str, path: Path, to: str | None) -> None:
    """Uploads a file, or the files of a directory, below artifact directory `to` of a run; does
    nothing if it is gone.
    """
    if path.is_dir():
        mlflow_client.log_artifacts(run_id, str(path), to)
    elif path.exists():
        mlflow_client.log_artifact(run_id, str(path), to)
