"""The log of a stage that runs: lines of JSON in a file of the spool."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from flows.tracking.sender import Op
from flows.tracking.spool import keep_files, lock_of, release
from ghn.addresses import first_line


class Log:
    """A file that a stage logs to, held against senders until it is closed.

    A disk that is full or read-only costs the log and not the stage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None
        self._lock: FileLock | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = lock_of(path)
            lock.acquire()
            self._lock = lock
            self._file = path.open("w")
        except (OSError, Timeout) as error:
            self._give_up(error)

    def write(self, op: Op) -> None:
        """Appends a line."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(op) + "\n")
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def close(self, sent: bool) -> None:
        """Removes what was sent; lets the rest wait for another sender."""
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
            if sent:
                self.path.unlink(missing_ok=True)
            elif self._file is not None:
                self._keep_files()
        if self._lock is not None:
            with suppress(OSError):
                release(self.path, self._lock)

    def _keep_files(self) -> None:
        try:
            keep_files(self.path)
        except OSError as error:
            print(
                f"{self.path.parent} has no copies of the files that this stage logged"
                f" ({first_line(error)}): MLflow gets them as they are when the log is sent",
                file=sys.stderr,
            )

    def _give_up(self, error: Exception) -> None:
        print(
            f"{self.path.parent} cannot be written ({first_line(error)}); what this stage logs is"
            " lost unless MLflow gets it at once",
            file=sys.stderr,
        )
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._file = None
