"""Every stage is an MLflow run, and no stage fails, or waits long, for MLflow's sake.

`stage_run` opens a `StageRun`. Whatever the stage logs is first a line of JSON in a file of its own (the spool). After
`CONNECT_AFTER_SECONDS` the stage connects to the tracking store, sends what has gathered (first that of earlier stages)
and from then on sends as it goes. A stage that is over sooner does not pay the seconds that it takes to import MLflow
and open a store: its log waits for the next stage that connects. When the store does not answer, sending stops, the
stage goes on, and its log waits likewise; `send_pending` (`ghn mlflow sync`) sends what waits.

The store is `MLFLOW_TRACKING_URI`, or else SQLite in the tree. Runs of one pipeline execution hang below the run whose
id is in `GHN_PARENT_RUN_ID`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import uuid4

from flows.memory import PeakMemory
from flows.provenance import dvc_hash, revision

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_URI = "sqlite:///mlflow.db"
ARTIFACTS = Path("mlartifacts")
SPOOL = Path(".mlflow-spool")
PARENT_VARIABLE = "GHN_PARENT_RUN_ID"
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's pages show runs and metrics instead of traces of chats."""

CONNECT_AFTER_SECONDS = 4.0
_PARAM_LIMIT = 6000  # characters; MLflow refuses longer values

Op = dict[str, Any]


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the SQLite file in the tree."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def client(timeout_seconds: int = 10, retries: int = 2) -> MlflowClient:
    """An MLflow client of `tracking_uri()` that gives up on an absent server after seconds instead of minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(timeout_seconds))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(retries))
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)  # the creation of tables, line by line
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri())


def experiment_id(mlflow_client: MlflowClient, name: str) -> str:
    """The id of experiment `name`, created if need be (artifacts of a local store go to `mlartifacts/`)."""
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
        found = mlflow_client.search_runs([experiment], f"tags.log = '{op['tags']['log']}'", max_results=1)
        run = (
            found[0]
            if found
            else mlflow_client.create_run(experiment, start_time=op["time_ms"], tags=op["tags"], run_name=op["name"])
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

        metrics = [Metric(key, value, op["time_ms"], op["step"]) for key, value in op["metrics"].items()]
        for begin in range(0, len(metrics), 1000):
            mlflow_client.log_batch(run_id, metrics=metrics[begin : begin + 1000])

    def _tags(self, mlflow_client: MlflowClient, run_id: str, op: Op) -> None:
        from mlflow.entities import RunTag

        mlflow_client.log_batch(run_id, tags=[RunTag(key, value) for key, value in op["tags"].items()])

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
        version = mlflow_client.create_model_version(
            op["name"],
            source=f"{mlflow_client.get_run(run_id).info.artifact_uri}/model",
            run_id=run_id,
            tags=op["tags"],
            description=op["description"],
        )
        mlflow_client.set_registered_model_alias(op["name"], op["alias"], version.version)
        if SPOOL in Path(op["path"]).parents:  # made for this upload
            shutil.rmtree(op["path"])
        from flows.registry import RegistryError, promote

        try:
            decision = promote(op["name"], version.version, mlflow_client=mlflow_client)
        except RegistryError as error:  # a version without an evaluation: nothing to compare
            print(f"{op['name']} version {version.version}: {error}", file=sys.stderr)
        else:
            verdict = "is the champion" if decision.promoted else "stays a challenger"
            print(f"{op['name']} version {version.version} {verdict}: {decision.reason}")

    def _end(self, mlflow_client: MlflowClient, run_id: str, op: Op) -> None:
        mlflow_client.set_terminated(run_id, status=op["status"], end_time=op["time_ms"])


class StageRun:
    """What a stage logs to while it runs. Made by `stage_run`."""

    def __init__(self, name: str, spool: Path, connect_after_seconds: float):
        self.name = name
        self.log_id = uuid4().hex
        self._sender = Sender()
        self._unsent: list[Op] = []
        self._connect_at = time.monotonic() + connect_after_seconds
        spool.mkdir(parents=True, exist_ok=True)
        # The process id says whether a log without an end is still being written (see `pending`).
        stem = f"{time.strftime('%Y%m%dT%H%M%S')}-{name.replace('@', '-')}-{os.getpid()}-{self.log_id[:8]}"
        self._path = spool / f"{stem}.open"
        self._file: IO[str] = self._path.open("w")
        self.failure: Exception | None = None
        """Why the tracking store gets nothing more, if so."""

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Logs numbers at `step` of the stage."""
        self._do({"op": "metrics", "metrics": {k: float(v) for k, v in metrics.items()}, "step": int(step)})

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Sets tags of the run."""
        self._do({"op": "tags", "tags": {key: str(value) for key, value in tags.items()}})

    def log_artifact(self, path: str | Path, to: str | None = None) -> None:
        """Uploads a file or the files of a directory, below artifact directory `to`."""
        self._do({"op": "artifact", "path": str(path), "to": to})

    def register_model(
        self, name: str, directory: str | Path, tags: Mapping[str, object], alias: str, description: str
    ) -> None:
        """Uploads an MLflow model's `directory` as a new version of registered model `name` and points `alias` to it.

        `flows.registry.promote` then decides whether it becomes @champion.
        """
        op = {"op": "register", "name": name, "path": str(directory), "alias": alias, "description": description}
        self._do({**op, "tags": {key: str(value) for key, value in tags.items()}})

    def connect(self) -> str | None:
        """Connects now, if not done yet, and returns the id of the MLflow run; None while the store is away."""
        if self._sender.run_id is None and self.failure is None:
            self._connect_at = 0.0
            send_pending(self._path.parent, self._attempt)
            self._send()
        return self._sender.run_id

    def _do(self, op: Op) -> None:
        op = {**op, "time_ms": int(time.time() * 1000)}
        self._file.write(json.dumps(op) + "\n")
        self._file.flush()
        self._unsent.append(op)
        if self.failure is None and time.monotonic() >= self._connect_at:
            if self._sender.run_id is None:
                self.connect()
            else:
                self._send()

    def _send(self) -> None:
        while self._unsent and self._attempt(lambda: self._sender.send(self._unsent[0])):
            del self._unsent[0]

    def _attempt(self, action: Callable[[], object]) -> bool:
        """Does `action`; whatever the store or the network raises is noted, since the stage's work is worth more."""
        if self.failure is not None:
            return False
        try:
            action()
        except Exception as error:
            self.failure = error
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            print(
                f"The MLflow store {tracking_uri()} is not available ({reason}). The stage goes on; what it logs waits "
                f"in {self._path.parent}/ until the next stage or `ghn mlflow sync` sends it.",
                file=sys.stderr,
            )
        return self.failure is None

    def _close(self) -> None:
        self._file.close()
        if self.failure is None and not self._unsent:
            self._path.unlink(missing_ok=True)
        else:
            self._path.rename(self._path.with_suffix(".jsonl"))


@contextmanager
def stage_run(
    stage: str,
    params: Mapping[str, Any],
    inputs: Iterable[str | Path] = (),
    outputs: Iterable[str | Path] = (),
    experiment: str = "ghn3",
    spool: Path = SPOOL,
    connect_after_seconds: float = CONNECT_AFTER_SECONDS,
) -> Iterator[StageRun]:
    """An MLflow run around a stage.

    The run gets the flattened `params`, the inputs as data sets with their DVC hashes as digests, and as tags the git
    revision and the DVC hash of each input and (at the end) output; at the end also `seconds` and `peak_memory_mb`. It
    ends as FINISHED, FAILED (an exception) or KILLED (Ctrl-C); exceptions pass through.

    Args:
        stage: the stage's name in dvc.yaml, `generate@train` for one of several.
        params: the parameters that the stage depends on, nested dictionaries allowed.
        inputs: files and directories that the stage reads.
        outputs: files and directories that the stage writes.
        experiment: MLflow experiment.
        spool: directory of the logs that wait.
        connect_after_seconds: a stage shorter than this leaves its log to the next one; 0 connects at once.
    """
    run = StageRun(stage, spool, connect_after_seconds)
    hashes = [{"path": str(path), "md5": md5} for path in inputs if (md5 := dvc_hash(path))]
    tags = {
        "stage": stage,
        "log": run.log_id,
        "git_revision": revision(),
        **{f"dvc.in.{entry['path']}": entry["md5"] for entry in hashes},
    }
    if parent := os.environ.get(PARENT_VARIABLE):
        tags["mlflow.parentRunId"] = parent
    flat = {key: str(value)[:_PARAM_LIMIT] for key, value in flatten(params).items()}
    run._do({"op": "start", "experiment": experiment, "name": stage, "tags": tags, "params": flat})
    if hashes:
        run._do({"op": "inputs", "inputs": hashes})
    started = time.perf_counter()
    memory = PeakMemory()
    status = "FAILED"
    try:
        with memory:
            yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        run.log_metrics({"seconds": time.perf_counter() - started, "peak_memory_mb": memory.mb})
        if status == "FINISHED":
            run.set_tags({f"dvc.out.{path}": md5 for path in outputs if (md5 := dvc_hash(path))})
        run._do({"op": "end", "status": status})
        run._close()


@contextmanager
def pipeline_run(name: str, params: Mapping[str, Any], experiment: str = "ghn3") -> Iterator[str | None]:
    """A parent run for the stages that are started inside: yields its id, None while the store is away.

    The stages find it through the environment.
    """
    sender = Sender()
    flat = {key: str(value)[:_PARAM_LIMIT] for key, value in flatten(params).items()}
    tags = {"stage": "pipeline", "log": uuid4().hex, "git_revision": revision()}
    before = os.environ.pop(PARENT_VARIABLE, None)
    status = "FAILED"
    try:
        _quietly(
            sender,
            {
                "op": "start",
                "experiment": experiment,
                "name": name,
                "tags": tags,
                "params": flat,
                "time_ms": int(time.time() * 1000),
            },
        )
        if sender.run_id is not None:
            os.environ[PARENT_VARIABLE] = sender.run_id
        yield sender.run_id
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if sender.run_id is not None:
            _quietly(sender, {"op": "end", "status": status, "time_ms": int(time.time() * 1000)})
        os.environ.pop(PARENT_VARIABLE, None)
        if before is not None:
            os.environ[PARENT_VARIABLE] = before


def _quietly(sender: Sender, op: Op) -> None:
    try:
        sender.send(op)
    except Exception as error:  # as in StageRun: the pipeline is worth more than its log
        print(f"MLflow store {tracking_uri()}: {error}", file=sys.stderr)


def pending(spool: Path = SPOOL) -> list[Path]:
    """Logs that wait to be sent, oldest first: ended ones, and those whose process was killed."""

    def abandoned(path: Path) -> bool:
        try:
            os.kill(int(path.stem.split("-")[-2]), 0)
        except ProcessLookupError:
            return True
        except (PermissionError, ValueError, IndexError):
            return False
        return False

    return sorted([*spool.glob("*.jsonl"), *(path for path in spool.glob("*.open") if abandoned(path))])


def send_pending(spool: Path = SPOOL, attempt: Callable[[Callable[[], object]], bool] | None = None) -> int:
    """Sends the logs that wait and returns how many were sent.

    Args:
        spool: directory of the logs.
        attempt: calls its argument and says whether it went well; sending stops at the first that did not. By default
            exceptions of the store pass through.
    """
    sent = 0
    for path in pending(spool):
        claimed = path.with_suffix(f".{os.getpid()}.sending")
        try:
            path.rename(claimed)
        except FileNotFoundError:  # another process was faster
            continue
        whole = False
        try:
            if attempt is None:
                replay(claimed)
                whole = True
            else:
                whole = attempt(partial(replay, claimed))
        finally:
            if whole:
                claimed.unlink()
                sent += 1
            else:
                claimed.rename(path.with_suffix(".jsonl"))
        if not whole:
            break
    return sent


def replay(path: Path) -> str | None:
    """Sends one log to the tracking store and returns the id of its run. A log without an end becomes a KILLED run."""
    sender = Sender()
    op: Op = {"op": "", "time_ms": 0}
    for line in path.read_text().splitlines():
        try:
            op = json.loads(line)
        except ValueError:  # torn last line
            break
        sender.send(op)
    if sender.run_id is not None and op["op"] != "end":
        sender.send({"op": "end", "status": "KILLED", "time_ms": op["time_ms"]})
    return sender.run_id


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
