"""The spool: logs of stages that wait to be sent to MLflow, each a file of JSON lines that begins
with the run's start.

Whoever writes or sends a log holds a lock beside it (`claim`), which the kernel lets go when that
process ends, on whatever machine or in whatever container it ran. A log that nobody holds waits,
whether its stage ended or was killed, and whether somebody has tried to send it before.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from flows.tracking.client import SPOOL, TrackingError, shown_uri, unreachable
from flows.tracking.sender import Op, Sender
from ghn.addresses import first_line
from ghn.files import atomic_path

PATTERNS = ("*.jsonl", "*.open", "*.sending")
"""Logs; the last two are those of earlier releases."""

LOCK = ".lock"
MODELS = "models"
"""Below the spool: models that wait for their upload, each in a directory named by its log's id."""

FILES = "files"
"""Below the spool: copies of the files that logs name, each log's in a directory of its name."""


def lock_of(log: Path) -> FileLock:
    """The lock of a log; to hold it in one thread and let it go in another is allowed."""
    return FileLock(log.with_name(log.name + LOCK), timeout=0, thread_local=False)


def release(log: Path, lock: FileLock) -> None:
    """Lets a lock go; its file goes with the log."""
    if not log.exists():
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


@contextmanager
def claim(log: Path) -> Iterator[bool]:
    """Whether nobody writes or sends `log`; if so, nobody else does in the meantime."""
    lock = lock_of(log)
    try:
        lock.acquire()
    except (Timeout, OSError):
        yield False
        return
    try:
        yield log.exists()  # another process may have sent it just before
    finally:
        release(log, lock)


def pending(spool: Path = SPOOL) -> list[Path]:
    """Logs that wait to be sent, oldest first."""
    found = []
    for log in _logs(spool):
        with claim(log) as mine:
            if mine:
                found.append(log)
    return found


def _logs(spool: Path) -> list[Path]:
    return sorted(log for pattern in PATTERNS for log in spool.glob(pattern))


def send_pending(spool: Path = SPOOL, attempts: float = math.inf) -> int:
    """Sends the logs in directory `spool` that wait and returns how many were sent.

    A log that cannot be sent goes on waiting and does not hold up those after it.

    Args:
        spool: the directory.
        attempts: leave logs alone that failed so often.

    Raises:
        TrackingError: the store is away, or some logs could not be sent (after all others were).
    """
    sent, failures = 0, []
    for log in _logs(spool):
        with claim(log) as mine:
            if not mine or _failures(log) >= attempts:
                continue
            try:
                replay(log)
            except TrackingError:  # of the store itself
                raise
            except Exception as error:
                if reason := unreachable():
                    raise TrackingError(f"the MLflow store went away: {reason}") from None
                failures.append(f"{first_line(error)}: {log}")
                _note(log, error)
            else:
                log.unlink()
                shutil.rmtree(_kept(log), ignore_errors=True)
                sent += 1
    _remove_orphans(spool)
    if failures:
        raise TrackingError(f"{'; '.join(failures)}; the MLflow store is {shown_uri()}")
    return sent


def _remove_orphans(spool: Path) -> None:
    """Removes packaged models whose log is gone (the stage was killed before it named them), and
    copies of files whose log is (the sender was killed before it removed them).
    """
    models, kept = list((spool / MODELS).glob("*")), list((spool / FILES).glob("*"))
    logs = [log.stem for log in _logs(spool)]  # afterwards: a log is there before what it names
    for model in models:
        if not any(model.name[:8] in log for log in logs):
            shutil.rmtree(model, ignore_errors=True)
    for directory in kept:
        if directory.name not in logs:
            shutil.rmtree(directory, ignore_errors=True)


def _failures(log: Path) -> int:
    return log.read_bytes().count(b'{"op": "failed"')


def _note(log: Path, error: Exception) -> None:
    """Notes a failure in the log itself."""
    op = {"op": "failed", "reason": first_line(error), "time_ms": int(time.time() * 1000)}
    with suppress(OSError), log.open("a") as file:
        file.write(json.dumps(op) + "\n")


def keep_files(log: Path) -> None:
    """Copies the files that a log names beside it, and names the copies: until the log is sent, the
    next run may write others in their place, and the directory of an experiment is removed.

    No links: a file may be written in place, and the spool may be on another file system.

    Raises:
        OSError: they cannot be read or written; the log is as it was.
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
    return log.parent / FILES / log.stem


def replay(path: Path) -> None:
    """Sends one log to the tracking store. A log without an end becomes a KILLED run.

    Raises:
        Exception: whatever MLflow or the network raises; that of an upload is raised after the
            lines that follow it were sent.
    """
    sender = Sender()
    ended, time_ms = False, 0
    for line in path.read_text().splitlines():
        try:
            op: Op = json.loads(line)
        except ValueError:  # torn by a kill
            continue
        if op["op"] == "failed":
            continue
        sender.send(op)
        ended, time_ms = ended or op["op"] == "end", op["time_ms"]
    if sender.run_id is not None and not ended:
        sender.send({"op": "end", "status": "KILLED", "time_ms": time_ms})
    sender.finish()
