"""Commands of this Python's environment, run as child processes that end with us."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def environment() -> dict[str, str]:
    """This process's environment with the commands of its Python (dvc, ghn) first on PATH."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def stream(command: Sequence[str], on_line: Callable[[str], None]) -> int:
    """Runs `command`, gives each line of its output to `on_line`, and returns its exit code.

    Whatever exception ends the waiting (a cancelled task, a timeout), the command and its children are ended too.
    """
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if text := line.rstrip().rsplit("\r", 1)[-1]:
                on_line(text)
        return process.wait()
    except BaseException:
        end_group(process)
        raise


def end_group(process: subprocess.Popen[str], grace_seconds: float = 10.0) -> None:
    """Ends a process started in a session of its own, with its children: politely, then not."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            continue
