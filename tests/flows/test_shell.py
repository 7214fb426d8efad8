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
from ghn.locks import locked

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
    script = "echo a; printf '1%%\\r100%%\\n'; pwd; echo $X >&2; exit 3"
    command = ["sh", "-c", script]
    code = shell.Commands().stream(command, lines.append, cwd=tmp_path, extra={"X": "y"})
    assert code == 3
    assert lines == ["a", "100%", str(tmp_path), "y"]


def test_a_progress_bar_reaches_a_log_before_its_end(monkeypatch):
    monkeypatch.setattr(shell, "PROGRESS_SECONDS", 0.3)
    lines: list[str] = []
    bar = r"for i in 1 2 3; do printf '\r'$i'0%%'; sleep 0.4; done; printf '\r40%%\n'; echo end"
    shell.Commands().stream(["sh", "-c", bar], lines.append)
    assert lines[-2:] == ["40%", "end"]
    assert {"10%", "20%", "30%"} >= set(lines[:-2]) >= {"20%"}


def test_a_lock_is_held_until_the_command_has_ended_also_if_its_starter_is_killed(tmp_path):
    script = (
        "from pathlib import Path; from ghn.locks import locked\n"
        "from flows.compute.shell import Commands\n"
        "with locked(Path('lock')) as lock:\n"
        "    command = ['sh', '-c', \"trap '' INT; touch begun; sleep 4\"]\n"
        "    Commands().stream(command, print, keep_open=[lock])\n"
    )
    root = Path(__file__).parents[2]
    starter = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), "GHN_GRACE_SECONDS": "20"},
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    starter.kill()
    starter.wait()
    with locked(tmp_path / "lock", wait=False) as lock:
        assert lock is None
    with locked(tmp_path / "lock", poll_seconds=0.1) as lock:
        assert lock is not None


def test_a_signal_shows_in_the_exit_code():
    assert shell.Commands().stream(["sh", "-c", "kill -KILL $$"], print) == 128 + signal.SIGKILL


def test_an_exception_ends_the_command_and_its_children(tmp_path):
    def refuse(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shell.Commands().stream(SLEEPER, refuse, cwd=tmp_path)
    assert gone(tmp_path)


def test_a_timeout_ends_them(tmp_path):
    with pytest.raises(TimeoutError, match="took longer than 1 s"):
        shell.Commands().stream(SLEEPER, lambda line: None, cwd=tmp_path, timeout_seconds=1.0)
    assert gone(tmp_path)


def test_commands_of_all_threads_end_together_and_no_other_begins(tmp_path):
    commands, ended = shell.Commands(), []

    def command() -> None:
        try:
            commands.stream(SLEEPER, lambda line: None, cwd=tmp_path)
        except shell.EndedError as error:
            ended.append(str(error))

    thread = threading.Thread(target=command)
    thread.start()
    pids(tmp_path)
    commands.end()
    thread.join(25)
    assert not thread.is_alive()
    assert gone(tmp_path)
    assert ended[0].endswith(": cancelled")
    with pytest.raises(shell.EndedError):  # what a cancelled run comes to next
        commands.stream(["touch", str(tmp_path / "begun")], print)
    assert not (tmp_path / "begun").exists()


def test_a_killed_starter_takes_them_along(tmp_path):
    script = f"from flows.compute.shell import Commands; Commands().stream({SLEEPER!r}, print)"
    root = Path(__file__).parents[2]
    starter = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}
    )
    pids(tmp_path)
    starter.kill()
    starter.wait()
    assert gone(tmp_path)
