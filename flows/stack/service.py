"""A server process: started in a session of its own, found again by its pid file, ended with all
its children.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from ghn.errors import GHNError
from ghn.files import atomic_path


class ServiceError(GHNError):
    """A server did not start; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Service:
    """What to run and how to know that it is ready.

    Attributes:
        name: also of the pid and log files.
        command: program and arguments.
        directory: the stack's directory, with the pid file; the log is in `logs/` below it.
        ready: whether it answers.
        environment: on top of this process's.
        cwd: working directory.
        user: user to run as, if this process is root.
        stop_signal: asks for an orderly end.
    """

    name: str
    command: Sequence[str]
    directory: Path
    ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM

    @property
    def log(self) -> Path:
        """Standard output and error."""
        return self.directory / "logs" / f"{self.name}.log"

    @property
    def _pid_file(self) -> Path:
        return self.directory / f"{self.name}.pid"

    def process(self) -> psutil.Process | None:
        """The running process; a pid file whose number went to another program does not count."""
        try:
            pid, created = self._pid_file.read_text().split()
            process = psutil.Process(int(pid))
            same = (
                abs(process.create_time() - float(created)) < 1
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return None
        return process if same else None

    def start(self, wait_seconds: float = 120.0) -> bool:
        """Starts the service unless it runs, and waits until it answers; returns whether it was
        started.

        Raises:
            ServiceError: it ended, or did not answer in time.
        """
        if self.process() is not None:
            return False
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            process = self._spawn(log)
        with atomic_path(self._pid_file) as temporary:
            temporary.write_text(f"{process.pid} {psutil.Process(process.pid).create_time()}")
        deadline = time.monotonic() + wait_seconds
        while not self.ready():
            if process.poll() is not None:
                self._pid_file.unlink(missing_ok=True)
                raise ServiceError(
                    f"{self.name} ended with exit code {process.returncode}:\n{self.last_lines()}"
                )
            if time.monotonic() > deadline:
                self.stop()
                raise ServiceError(
                    f"{self.name} did not answer in {wait_seconds:.0f} s:\n{self.last_lines()}"
                )
            time.sleep(0.2)
        return True

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            list(self.command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self.environment},
            cwd=self.cwd,
            start_new_session=True,
            **as_user(self.user),
        )

    def stop(self, grace_seconds: float = 20.0) -> bool:
        """Ends the service and every process below it, politely, then not; returns whether it was
        running.
        """
        process = self.process()
        if process is not None:
            family = [process, *process.children(recursive=True)]
            process.send_signal(self.stop_signal)
            _, alive = psutil.wait_procs(family, timeout=grace_seconds)
            for survivor in alive:
                survivor.kill()
            psutil.wait_procs(alive, timeout=5)
        self._pid_file.unlink(missing_ok=True)
        return process is not None

    def last_lines(self) -> str:
        """The end of the log."""
        try:
            return (
                "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
                + f"\n(whole log: {self.log})"
            )
        except FileNotFoundError:
            return "(no log)"


def as_user(user: str | None) -> dict[str, Any]:
    """Arguments of `subprocess.Popen` for a child that runs as `user`, where this process may
    choose (root).
    """
    if user is None or os.geteuid() != 0:
        return {}
    import pwd

    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
