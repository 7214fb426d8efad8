"""The spool: logs of stages that wait to be sent to MLflow, each a file of JSON lines that begins
with the run's start.

`….open` is being written by the process whose id is in its name, `….jsonl` has ended, `….sending`
is being sent.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from flows.tracking.client import SPOOL
from flows.tracking.sender import Op, Sender
from ghn.files import atomic_path


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

    return sorted(
        [*spool.glob("*.jsonl"), *(path for path in spool.glob("*.open") if abandoned(path))]
    )


def send_pending(spool: Path = SPOOL) -> int:
    """Sends the logs in directory `spool` that wait and returns how many were sent.

    An exception of the store or of the network passes through; that log and those after it go on
    waiting.
    """
    sent = 0
    for path in pending(spool):
        claimed = path.with_suffix(f".{os.getpid()}.sending")
        try:
            path.rename(claimed)
        except FileNotFoundError:  # another process was faster
            continue
        try:
            replay(claimed)
        except BaseException:
            claimed.rename(path.with_suffix(".jsonl"))
            raise
        claimed.unlink()
        shutil.rmtree(_kept(path), ignore_errors=True)
        sent += 1
    return sent


def keep_files(log: Path) -> None:
    """Copies the files that a log names beside it, and names the copies: their directory is about
    to be removed.
    """
    lines: list[str] = []
    for line in log.read_text().splitlines():
        op = json.loads(line)
        if (
            "path" in op
            and (source := Path(op["path"])).exists()
            and log.parent.resolve() not in source.parents
        ):
            copy = _kept(log) / str(len(lines)) / source.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy)
            op["path"] = str(copy.resolve())
        lines.append(json.dumps(op))
    with atomic_path(log) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _kept(log: Path) -> Path:
    return log.parent / "files" / log.stem


def replay(path: Path) -> str | None:
    """Sends one log to the tracking store and returns the id of its run. A log without an end
    becomes a KILLED run.
    """
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
