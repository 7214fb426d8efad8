"""Commands of this Python's environment, run as child processes that end with us."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ghn.errors import GHNError

PROGRESS_SECONDS = 30.0
"""Between two states of a progress bar in a log."""

SUPERVISOR = Path(__file__).with_name("supervise.py")


def environment() -> dict[str, str]:
    """This process's environment with the commands of its Python (dvc, ghn) first on PATH."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


class EndedError(GHNError):
    """A command was ended, or not begun, because what it is part of was cancelled."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(f"{' '.join(command)}: cancelled")


class Commands:
    """Commands that end together, as the stages of a flow run that is cancelled do.

    Once ended, it begins no other: a thread that comes to its next command finds out so.
    """

    def __init__(self) -> None:
        self.ended = False
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def stream(
        self,
        command: Sequence[str],
        on_line: Callable[[str], None],
        *,
        cwd: Path | None = None,
        extra: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
        keep_open: Sequence[int] = (),
    ) -> int:
        """Runs `command`, gives each line of its output to `on_line`, and returns its exit code.

        Whatever exception ends the waiting (a cancelled task), the command and its children are
        ended too, and likewise if this process is killed: see `flows.compute.supervise`.

        Args:
            command: program and arguments.
            on_line: called with each line, the last state of a progress bar included.
            cwd: directory to run in.
            extra: environment variables on top of this process's.
            timeout_seconds: ends the command after so long.
            keep_open: descriptors that stay open until the command has ended, even if this process
                is killed before (locks).

        Raises:
            EndedError: the group was ended, before or meanwhile.
            TimeoutError: the time is over.
        """
        if self.ended:
            raise EndedError(command)
        process = subprocess.Popen(
            [sys.executable, str(SUPERVISOR), *command],
            env={**environment(), **(extra or {})},
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=keep_open,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        # newline="": both \n and \r end a line, and stay.
        output = io.TextIOWrapper(process.stdout, encoding="utf-8", errors="replace", newline="")
        self._add(process)
        over = threading.Event()

        def time_is_over() -> None:
            over.set()
            _end(process)

        timer = threading.Timer(timeout_seconds, time_is_over) if timeout_seconds else None
        if timer is not None:
            timer.start()
        try:
            for text in _lines(output):
                on_line(text)
            code = process.wait()
        finally:
            if timer is not None:
                timer.cancel()
            _end(process)
            process.wait()
            output.close()  # not before: what is ended may have a last word
            with self._lock:
                self._running.discard(process)
        if over.is_set():
            raise TimeoutError(f"{' '.join(command)} took longer than {timeout_seconds:.0f} s")
        if self.ended:
            raise EndedError(command)
        return code

    def end(self) -> None:
        """Ends every command that any thread runs, and refuses others from now on."""
        with self._lock:
            self.ended = True
            processes = list(self._running)
        for process in processes:
            _end(process)

    def _add(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.add(process)
        if self.ended:  # between the question and here
            _end(process)


def _lines(output: Iterable[str]) -> Iterator[str]:
    """The lines that are not empty. The states of a progress bar, each ended by \\r, are lines too,
    but of those that come sooner than `PROGRESS_SECONDS` after another line only the last counts.
    """
    last, held = time.monotonic(), ""
    for line in output:
        text, held = line.rstrip() or held, ""
        if line.endswith("\r") and time.monotonic() - last < PROGRESS_SECONDS:
            held = text
        elif text:
            last = time.monotonic()
            yield text
    if held:
        yield held


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()  # the supervisor does the rest
