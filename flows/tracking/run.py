"""Every stage is an MLflow run, and no stage fails, or waits, for MLflow's sake.

`stage_run` opens a `StageRun`. Whatever the stage logs is first a line of JSON in a file of its own
(`flows.tracking.spool`). After `CONNECT_AFTER_SECONDS` a thread connects to the tracking store,
sends what has gathered (first that of earlier stages), and from then on sends as it comes, with
MLflow's own samples of the machine (`system/…`). A stage that is over sooner does not pay the
seconds that it takes to import MLflow and open a store: its log waits for the next stage that
connects. When the store does not answer, sending stops, the stage goes on, and its log waits
likewise; the next stage or `ghn mlflow sync` sends it.

Runs of one pipeline execution hang below the run whose id is in `GHN_PARENT_RUN_ID`.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any
from uuid import uuid4

from flows.compute.memory import PeakMemory
from flows.rows.provenance import dvc_hash, revision
from flows.tracking.client import SPOOL, TREE, Op, Sender, tracking_uri
from flows.tracking.spool import keep_files, send_pending

PARENT_VARIABLE = "GHN_PARENT_RUN_ID"
CONNECT_AFTER_SECONDS = 4.0
_PARAM_LIMIT = 6000  # characters; MLflow refuses longer values

# A process that is forked (a data loader's worker) while another thread imports a module would
# wait for that thread, which it does not have, as soon as it imports the same: forks wait until
# the import is done.
_importing = threading.RLock()
os.register_at_fork(
    before=_importing.acquire, after_in_parent=_importing.release, after_in_child=_importing.release
)


class StageRun:
    """What a stage logs to while it runs. Made by `stage_run`."""

    def __init__(self, name: str, spool: Path, connect_after_seconds: float):
        self.name = name
        self.log_id = uuid4().hex
        self.failure: Exception | None = None
        """Why the tracking store gets nothing more, if so."""
        spool.mkdir(parents=True, exist_ok=True)
        # The process id says whether a log without an end is still being written (see
        # `flows.tracking.spool.pending`).
        started = time.strftime("%Y%m%dT%H%M%S")
        stem = f"{started}-{name.replace('@', '-')}-{os.getpid()}-{self.log_id[:8]}"
        self._path = spool / f"{stem}.open"
        self._file: IO[str] = self._path.open("w")
        self._unsent: SimpleQueue[Op | None] = SimpleQueue()
        self._over = threading.Event()
        self._sent = False
        if connect_after_seconds <= 0:
            # Not in the thread: what runs inside may import it too, and two threads that import
            # a package with cycles at once may see one half of it.
            with suppress(ImportError):
                import mlflow  # noqa: F401
        self._thread = threading.Thread(
            target=self._background, args=(connect_after_seconds,), name="mlflow-log", daemon=True
        )
        self._thread.start()

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Logs numbers at `step` of the stage."""
        self._do(
            {
                "op": "metrics",
                "metrics": {k: float(v) for k, v in metrics.items()},
                "step": int(step),
            }
        )

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Sets tags of the run."""
        self._do({"op": "tags", "tags": {key: str(value) for key, value in tags.items()}})

    def log_artifact(self, path: str | Path, to: str | None = None) -> None:
        """Uploads a file or the files of a directory, below artifact directory `to`."""
        self._do({"op": "artifact", "path": str(Path(path).resolve()), "to": to})

    def register_model(
        self,
        name: str,
        directory: str | Path,
        tags: Mapping[str, object],
        alias: str,
        description: str,
    ) -> None:
        """Uploads an MLflow model's `directory` as a new version of registered model `name` and
        points `alias` to it.

        `flows.registry.registry.promote` then decides whether it becomes @champion.
        """
        op = {
            "op": "register",
            "name": name,
            "path": str(Path(directory).resolve()),
            "alias": alias,
        }
        self._do(
            {
                **op,
                "description": description,
                "tags": {key: str(value) for key, value in tags.items()},
            }
        )

    def _do(self, op: Op) -> None:
        op = {**op, "time_ms": int(time.time() * 1000)}
        self._file.write(json.dumps(op) + "\n")
        self._file.flush()
        self._unsent.put(op)

    def _background(self, connect_after_seconds: float) -> None:
        """The thread that sends; whatever the store or the network raises is noted, the stage's
        work is worth more.
        """
        if connect_after_seconds > 0 and self._over.wait(connect_after_seconds):
            return
        with _importing, suppress(ImportError):
            import mlflow  # noqa: F401
        try:
            send_pending(self._path.parent)
        except Exception as error:  # perhaps that log's fault: this stage's own tells
            print(
                f"What earlier stages logged cannot be sent to MLflow yet ({_reason(error)}).",
                file=sys.stderr,
            )
        try:
            self._send()
        except Exception as error:
            self.failure = error
            print(
                f"The MLflow store {tracking_uri()} is not available ({_reason(error)}). The stage"
                f" goes on; what it logs waits in {self._path.parent}/ until the next stage or `ghn"
                " mlflow sync` sends it.",
                file=sys.stderr,
            )

    def _send(self) -> None:
        sender, monitor = Sender(), _SystemSampler()
        try:
            while (op := self._unsent.get()) is not None:
                if op["op"] == "end":
                    monitor.stop()
                sender.send(op)
                if op["op"] == "start" and sender.run_id is not None:
                    monitor.start(sender.run_id)
        finally:
            monitor.stop()
        self._sent = True

    def _close(self) -> None:
        self._over.set()
        self._unsent.put(None)
        self._thread.join()
        self._file.close()
        if self._sent:
            self._path.unlink(missing_ok=True)
        else:
            if TREE.resolve() != Path.cwd():  # an experiment's directory, which will be gone
                keep_files(self._path)
            self._path.rename(self._path.with_suffix(".jsonl"))


class _SystemSampler:
    """MLflow's sampler of processors, memory, disks, network and GPUs, every 10 s.

    MLflow's own variables hold: MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL (seconds),
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false.
    """

    def __init__(self) -> None:
        self._monitor: Any = None

    def start(self, run_id: str) -> None:
        """Begins to log to a run."""
        if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() in ("false", "0"):
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        self._monitor = SystemMetricsMonitor(run_id, tracking_uri=tracking_uri())  # type: ignore[no-untyped-call]
        self._monitor.start()

    def stop(self) -> None:
        """Ends it; a second time does nothing."""
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


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

    The run gets the flattened `params`, the inputs as data sets with their DVC hashes as digests,
    and as tags the git revision, the name of the DVC experiment that it belongs to, if any, and the
    DVC hash of each input and (at the end) output; at the end also `seconds` and `peak_memory_mb`.
    It ends as FINISHED, FAILED (an exception) or KILLED (Ctrl-C); exceptions pass through.

    Args:
        stage: the stage's name in dvc.yaml, `generate@train` for one of several.
        params: the parameters that the stage depends on, nested dictionaries allowed.
        inputs: files and directories that the stage reads.
        outputs: files and directories that the stage writes.
        experiment: MLflow experiment.
        spool: directory of the logs that wait.
        connect_after_seconds: a stage shorter than this leaves its log to the next one; 0 connects
            at once.
    """
    run = StageRun(stage, spool, connect_after_seconds)
    hashes = [{"path": str(path), "md5": md5} for path in inputs if (md5 := dvc_hash(path))]
    tags = {
        "stage": stage,
        "log": run.log_id,
        **_origin(f"ghn {stage}"),
        **{f"dvc.in.{entry['path']}": entry["md5"] for entry in hashes},
    }
    if parent := os.environ.get(PARENT_VARIABLE):
        tags["mlflow.parentRunId"] = parent
    if name := os.environ.get("DVC_EXP_NAME"):
        tags["dvc_experiment"] = name
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
def pipeline_run(
    name: str, params: Mapping[str, Any], experiment: str = "ghn3"
) -> Iterator[str | None]:
    """A parent run for the stages that are started inside: yields its id, None while the store is
    away.

    The stages find it through the environment. So does a pipeline that runs stages for another (in
    another pool): it makes no run of its own, and its stages hang below that of the other.
    """
    if outer := os.environ.get(PARENT_VARIABLE):
        yield outer
        return
    sender = Sender()
    flat = {key: str(value)[:_PARAM_LIMIT] for key, value in flatten(params).items()}
    tags = {"stage": "pipeline", "log": uuid4().hex, **_origin(name)}
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


def _origin(source: str) -> dict[str, str]:
    """Tags that say what ran, of which revision and for whom; those of MLflow's own names are on
    its pages.
    """
    commit = revision()
    tags = {"git_revision": commit, "mlflow.source.name": source, "mlflow.source.type": "LOCAL"}
    if commit != "unknown":
        tags["mlflow.source.git.commit"] = commit.removesuffix("-dirty")
    with suppress(OSError, KeyError):  # in a container for a user without a name
        tags["mlflow.user"] = getpass.getuser()
    return tags


def _quietly(sender: Sender, op: Op) -> None:
    try:
        sender.send(op)
    except Exception as error:  # as in StageRun: the pipeline is worth more than its log
        print(f"MLflow store {tracking_uri()}: {error}", file=sys.stderr)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
