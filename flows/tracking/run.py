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

import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from uuid import uuid4

from flows.compute.memory import PeakMemory
from flows.rows.provenance import dvc_hash
from flows.tracking.client import (
    SPOOL,
    TrackingError,
    shown_uri,
    unreachable,
)
from flows.tracking.log import Log
from flows.tracking.origin import HOLD_VARIABLE, PARENT_VARIABLE, as_params, origin
from flows.tracking.sampler import SystemSampler
from flows.tracking.sender import Op, Sender
from flows.tracking.spool import send_pending
from ghn.addresses import first_line

CONNECT_AFTER_SECONDS = 15.0

# A process that is forked (a data loader's worker) while another thread imports a module would
# wait for that thread, which it does not have, as soon as it imports the same: forks wait until
# the import is done.
_importing = threading.RLock()
os.register_at_fork(
    before=_importing.acquire, after_in_parent=_importing.release, after_in_child=_importing.release
)


WAIT_SECONDS = 2.0
"""How long a stage that is over waits for its log to be sent before it asks whether the store is
still there.
"""

PATIENT_SECONDS = 4.5
"""How long a store that does not answer at once may take while something is sent to it."""

INTERRUPTED_SECONDS = 1.0
"""How long an interrupted stage waits for that, which somebody waits for at a keyboard; what is not
sent then, the next stage sends. A new store takes longer, and Ctrl-C within an import may leave
Python's lock of imports taken, and the thread that sends with it.
"""

ATTEMPTS = 3
"""Stages leave logs alone that could not be sent so often; `ghn mlflow sync` does not."""


class StageRun:
    """What a stage logs to while it runs. Made by `stage_run`."""

    def __init__(self, name: str, spool: Path, connect_after_seconds: float):
        self.name = name
        self.log_id = uuid4().hex
        self.failure: Exception | None = None
        """Why the tracking store gets nothing more, if so."""
        stem = f"{time.strftime('%Y%m%dT%H%M%S')}-{name.replace('@', '-')}-{self.log_id[:8]}"
        self._log = Log(spool / f"{stem}.jsonl")
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

        `flows.registry.promotion` then decides whether it becomes @champion, unless somebody shall
        approve of it first (`HOLD_VARIABLE`).
        """
        op = {
            "op": "register",
            "name": name,
            "path": str(Path(directory).resolve()),
            "alias": alias,
            "hold": bool(os.environ.get(HOLD_VARIABLE)),
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
        self._log.write(op)
        self._unsent.put(op)

    def _background(self, connect_after_seconds: float) -> None:
        """The thread that sends; whatever the store or the network raises is noted, the stage's
        work is worth more.
        """
        if connect_after_seconds > 0 and self._over.wait(connect_after_seconds):
            return
        try:
            if reason := unreachable():  # asked first, since importing MLflow takes seconds
                raise TrackingError(f"The MLflow store {shown_uri()} is not available ({reason})")
            with _importing, suppress(ImportError):
                import mlflow  # noqa: F401
            self._send_earlier()
            self._send()
        except Exception as error:
            self.failure = error
            text = f"The MLflow store {shown_uri()} is not available ({first_line(error)})"
            if isinstance(error, TrackingError):
                text = str(error)
            print(
                f"{text}. The stage goes on; what it logs waits in {self._log.path.parent}/ until"
                " the next stage or `ghn mlflow sync` sends it.",
                file=sys.stderr,
            )

    def _send_earlier(self) -> None:
        try:
            send_pending(self._log.path.parent, attempts=ATTEMPTS)
        except Exception as error:  # perhaps that log's fault: this stage's own tells
            print(
                f"What earlier stages logged cannot be sent to MLflow yet ({first_line(error)}).",
                file=sys.stderr,
            )

    def _send(self) -> None:
        sender, monitor = Sender(), SystemSampler()
        try:
            while (op := self._unsent.get()) is not None:
                if op["op"] == "end":
                    monitor.stop()
                sender.send(op)
                if op["op"] == "start" and sender.run_id is not None:
                    monitor.start(sender.run_id)
        finally:
            monitor.stop()
        sender.finish()
        self._sent = True

    def _close(self, seconds: float) -> None:
        self._over.set()
        self._unsent.put(None)
        deadline = time.monotonic() + seconds
        while self._thread.is_alive():
            self._thread.join(WAIT_SECONDS)
            if time.monotonic() > deadline:
                break
            # An upload may take hours while the store is there; without it nothing is waited for.
            # A link that an upload fills answers late.
            away = self._thread.is_alive() and unreachable(1.0)
            if away and (reason := unreachable(PATIENT_SECONDS)):
                print(f"The MLflow store {shown_uri()} went away ({reason}).", file=sys.stderr)
                break
        self._log.close(self._sent)


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
        **origin(f"ghn {stage}"),
        **{f"dvc.in.{entry['path']}": entry["md5"] for entry in hashes},
    }
    if parent := os.environ.get(PARENT_VARIABLE):
        tags["mlflow.parentRunId"] = parent
    if name := os.environ.get("DVC_EXP_NAME"):
        tags["dvc_experiment"] = name
    run._do(
        {
            "op": "start",
            "experiment": experiment,
            "name": stage,
            "tags": tags,
            "params": as_params(params),
        }
    )
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
        run._close(INTERRUPTED_SECONDS if status == "KILLED" else math.inf)
