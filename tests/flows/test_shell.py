"""Commands that end with their starter, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from flows.compute import shell

# A shell with a child, as DVC runs a stage.
SLEEPER = ["sh", "-c", "echo $$ > pids; sleep 600 & echo $! >> pids; echo ready; wait"]


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch):
    # the background child of a shell ignores SIGINT
    monkeypatch.setenv("GHN_GRACE_SECONDS", "0.5")


def pids(directory: Path) -> list[int]:
    """Of SLEEPER once it runs."""
    path = directory / "pids"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.exists() and len(found := path.read_text().split()) == 2:
            return [int(pid) for pid in found]
        time.sleep(0.05)
    raise TimeoutError("the command did not start")


def gone(directory: Path) -> bool:
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in pids(directory)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(psutil.pid_exists(pid) for pid in pids(directory))


def test_lines_and_exit_codes(tmp_path):
    lines: list[str] = []
    assert shell.stream(["sh", "-c", "echo a; printf '1%%\\r100%%\\n'; pwd; echo $X >&2; exit 3"],
                        lines.append,
                        cwd=tmp_path, extra={"X": "y"}) == 3  # fmt: skip
    assert lines == ["a", "100%", str(tmp_path), "y"]


def test_a_signal_shows_in_the_exit_code():
    assert shell.stream(["sh", "-c", "kill -KILL $$"], print) == 128 + signal.SIGKILL


def test_an_exception_ends_the_command_and_its_children(tmp_path):
    def refuse(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shell.stream(SLEEPER, refuse, cwd=tmp_path)
    assert gone(tmp_path)


def test_a_timeout_ends_them(tmp_path):
    with pytest.raises(TimeoutError, match="took longer than 1 s"):
        shell.stream(SLEEPER, lambda line: None, cwd=tmp_path, timeout_seconds=1.0)
    assert gone(tmp_path)


def test_end_all_ends_those_of_other_threads(tmp_path):
    thread = threading.Thread(
        target=shell.stream, args=(SLEEPER, lambda line: None), kwargs={"cwd": tmp_path}
    )
    thread.start()
    pids(tmp_path)
    shell.end_all()
    thread.join(25)
    assert not thread.is_alive()
    assert gone(tmp_path)


def test_a_killed_starter_takes_them_along(tmp_path):
    script = f"from flows.compute.shell import stream; stream({SLEEPER!r}, print)"
    root = Path(__file__).parents[2]
    starter = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}
    )
    pids(tmp_path)
    starter.kill()
    starter.wait()
    assert gone(tmp_path)
