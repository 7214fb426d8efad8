"""Ranks on this machine: they work together, end together, and their exit code is the command's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from flows.compute.rank import LOST
from flows.compute.ranks import run_ranks

RANK = """
import datetime, os, pathlib, signal, sys, time
rank, out = os.environ["RANK"], pathlib.Path(os.environ["OUT"])
if os.environ.get("IMPORT"):
    (out / f"importing{rank}").touch()
    time.sleep(100)

def main():
    if os.environ.get("WAIT"):
        def stop(*_):
            time.sleep(2)  # a step
            (out / f"stopped{rank}").open("a").write("once")
            sys.exit(130)
        signal.signal(signal.SIGINT, stop)
        (out / f"waiting{rank}").touch()
        time.sleep(100)
    if rank == os.environ.get("FAIL"):
        sys.exit(3)
    import torch, torch.distributed as dist
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    total = torch.tensor(float(rank) + 10)
    dist.all_reduce(total)
    text = f"{total.item()} {os.environ['WORLD_SIZE']} {os.environ['MASTER_ADDR']}"
    (out / rank).write_text(text)
    dist.destroy_process_group()
"""


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the ranks of module `a_rank` write."""
    (tmp_path / "a_rank.py").write_text(RANK)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path.cwd()}")
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def test_ranks_work_together(out: Path) -> None:
    assert run_ranks(2, "a_rank") == 0
    assert (out / "0").read_text() == (out / "1").read_text() == "21.0 2 127.0.0.1"


def test_one_that_fails_ends_the_others_and_gives_the_exit_code(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", "1")
    started = time.monotonic()
    assert run_ranks(2, "a_rank") == 3
    # not the time-out of the collective operation that rank 0 waits in
    assert time.monotonic() - started < 40
    assert not (out / "0").exists()


@pytest.mark.parametrize(
    ("texts", "printed"),
    [
        (("damaged", "damaged"), "ghn: damaged\n"),
        (("", "damaged"), "ghn: damaged\n"),
        ((LOST, "damaged"), "ghn: damaged\n"),
        ((LOST, ""), f"ghn: {LOST}\n"),
        (("absent\nmake it", "absent"), "ghn: absent\nmake it\n"),
    ],
)
def test_what_ranks_have_to_say_is_said_once(
    out: Path, capsys: pytest.CaptureFixture[str], texts: tuple[str, str], printed: str
) -> None:
    """Also when the first to meet an error is not rank 0, which is ended then."""
    (out / "a_rank.py").write_text(
        "import os, sys\n"
        "from flows.compute.rank import say\n"
        "def main():\n"
        f"    if text := {texts!r}[int(os.environ['RANK'])]:\n"
        "        say(text)\n"
        "        sys.exit(1)\n"
    )
    assert run_ranks(2, "a_rank") == 1
    assert capsys.readouterr().err == printed


@contextmanager
def launched(out: Path, mark: str) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A launcher whose two ranks have left `mark`, and these."""
    command = (
        "import sys; from flows.compute.ranks import run_ranks; sys.exit(run_ranks(2, 'a_rank'))"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", command], stderr=subprocess.PIPE, text=True, process_group=0
    )
    try:
        deadline = time.monotonic() + 60
        while not all((out / f"{mark}{rank}").exists() for rank in (0, 1)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield launcher, psutil.Process(launcher.pid).children(recursive=True)
    finally:
        launcher.kill()
        launcher.wait()
        assert launcher.stderr is not None
        launcher.stderr.close()


def test_ctrl_c_reaches_every_rank_once(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAIT", "1")
    with launched(out, "waiting") as (launcher, ranks):
        os.killpg(launcher.pid, signal.SIGINT)  # as a terminal does
        assert launcher.wait(40) == 130
        assert launcher.stderr is not None
        assert launcher.stderr.read() == ""
        assert not psutil.wait_procs(ranks, timeout=5)[1]
        assert [(out / f"stopped{rank}").read_text() for rank in (0, 1)] == ["once", "once"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ranks_that_still_import_end_with_their_launcher_and_without_a_word(
    out: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("IMPORT", "1")
    with launched(out, "importing") as (launcher, ranks):
        assert len(ranks) == 2
        launcher.send_signal(number)
        assert launcher.wait(20) == (-number if number == signal.SIGKILL else 128 + number)
        assert not psutil.wait_procs(ranks, timeout=5)[1]
        assert launcher.stderr is not None
        assert launcher.stderr.read() == ""


def test_a_rank_whose_launcher_died_before_it_could_ask_ends(out: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    command = [sys.executable, "-m", "flows.compute.rank", str(gone.pid), "a_rank"]
    assert subprocess.run(command, env={**os.environ, "RANK": "0"}).returncode == -signal.SIGKILL
