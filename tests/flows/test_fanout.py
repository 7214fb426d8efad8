"""Fan-out over processes: completeness, lost workers, exceptions, and what a killed parent leaves
behind.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from flows.compute.fanout import FanOut, LostWorkerError, fan_out

TWO = FanOut(workers=2)


def square(x: int) -> int:
    return x * x


def die_once(marks: Path, x: int) -> int:
    """Kills its own worker the first time it sees each multiple of 5."""
    mark = marks / str(x)
    if x % 5 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def die_always(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return x


def no_three(x: int) -> int:
    if x == 3:
        raise ValueError("three is not welcome")
    return x


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_gives_one_result(workers):
    assert sorted(fan_out(square, iter(range(50)), FanOut(workers=workers))) == [
        x * x for x in range(50)
    ]


def test_workers_are_ours_whatever_a_users_files_are_called(tmp_path, monkeypatch):
    for name in ("flows", "ghn"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a file of the user')")
    monkeypatch.syspath_prepend(tmp_path)
    assert sorted(fan_out(square, range(4), TWO)) == [0, 1, 4, 9]


def test_no_items():
    assert list(fan_out(square, [])) == []


def test_results_come_as_completed():
    assert next(iter(fan_out(partial(lambda s: time.sleep(s) or s), [20.0, 0.0], TWO))) == 0.0


def test_a_lost_worker_loses_nothing(tmp_path):
    results = fan_out(partial(die_once, tmp_path), range(12), TWO)
    assert sorted(results) == list(range(12))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "10", "5"]


def test_a_worker_that_dies_between_two_items_is_replaced(tmp_path):
    results = []
    for x, worker in fan_out(partial(lambda x: (x, os.getpid())), range(12), TWO):
        results.append(x)
        if x < 3:
            os.kill(worker, signal.SIGKILL)
    assert sorted(results) == list(range(12))


def test_an_exception_that_cannot_travel_arrives_as_text():
    class StrangeError(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a} and {b}")

    def refuse(x):
        raise StrangeError(x, "more")

    with pytest.raises(RuntimeError, match="StrangeError: 0 and more"):
        list(fan_out(refuse, [0, 0], TWO))


def test_an_item_that_always_kills_its_worker_takes_no_neighbour_along():
    results = list(
        fan_out(die_always, range(8), TWO, failed=lambda item, error: (item, type(error)))
    )
    assert (3, LostWorkerError) in results
    assert sorted(r for r in results if isinstance(r, int)) == [0, 1, 2, 4, 5, 6, 7]


def test_a_hopeless_item_is_named_in_the_error():
    with pytest.raises(
        LostWorkerError, match=r"architecture 3: the worker died \(exit code -9\), 2 times"
    ):
        list(
            fan_out(
                die_always,
                range(8),
                FanOut(workers=2, retries=1),
                describe="architecture {}".format,
            )
        )


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_is_raised_or_becomes_a_result(workers):
    with pytest.raises(ValueError, match="three is not welcome"):
        list(fan_out(no_three, range(6), FanOut(workers=workers)))
    results = list(
        fan_out(no_three, range(6), FanOut(workers=workers), failed=lambda item, error: -item)
    )
    assert sorted(results) == [-3, 0, 1, 2, 4, 5]


def test_threads_of_a_worker_are_limited():
    limits = set(
        fan_out(lambda _: os.environ["OMP_NUM_THREADS"], range(4), FanOut(workers=2, threads=3))
    )
    assert limits == {"3"}


def test_workers_end_when_the_consumer_stops_early():
    before = set(psutil.Process().children(recursive=True))
    results = fan_out(partial(lambda s: time.sleep(s) or s), [0.0, 600.0, 600.0], TWO)
    assert next(results) == 0.0
    results.close()
    left = [
        p
        for p in psutil.Process().children(recursive=True)
        if p not in before and "tracker" not in str(p.cmdline())
    ]
    _, alive = psutil.wait_procs(left, timeout=10)
    assert alive == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent_and_without_a_word(how, tmp_path):
    script = (
        "import os, time, pathlib\nfrom flows.compute.fanout import FanOut, fan_out\ndef"
        f" work(x):\n    pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()\n   "
        " time.sleep(600)\nlist(fan_out(work, range(2), FanOut(workers=2)))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        # a suite in the background ignores Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = [psutil.Process(int(mark.name)) for mark in tmp_path.iterdir()]
    assert len(workers) == 2
    os.killpg(parent.pid, how)  # as a terminal does
    _, said = parent.communicate(timeout=30)
    _, alive = psutil.wait_procs(workers, timeout=15)
    assert alive == []
    assert "leaked" not in said
    assert said.count("Traceback") == (how == signal.SIGINT)  # the parent's own


def _resident_mb(_item: int) -> float:
    """Memory of this process before it allocates 500 MB that are not returned by themselves: in
    pieces below the C library's size for a mapping of their own, with something after them."""
    before = psutil.Process().memory_info().rss / 1e6
    pieces = [bytes(50_000) for _ in range(10_000)]
    _KEPT.append(bytes(50_000))
    del pieces
    return before


_KEPT: list[bytes] = []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is of glibc alone")
@pytest.mark.parametrize("workers", [1, 2])
def test_what_an_item_has_freed_goes_back_to_the_system(workers: int) -> None:
    held = list(fan_out(_resident_mb, range(4), FanOut(workers=workers, threads=1)))
    assert max(held) - min(held) < 300
