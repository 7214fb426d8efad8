"""GPUs are names with locks here, so what shares them shows without any."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.compute import gpus, ranks
from flows.compute.cluster import room
from flows.compute.fanout import FanOut, fan_out
from ghn.errors import ConfigError
from ghn.locks import locked

(ALLOCATOR,) = gpus.ALLOCATOR
HOLD = """
import pathlib, sys, time
from flows.compute.gpus import hold
with hold(int(sys.argv[1]), ["0", "1", "2"], pathlib.Path(sys.argv[2])) as held:
    print(*held, flush=True)
    time.sleep(60)
"""


def holder(count: int, directory: Path) -> tuple[subprocess.Popen[str], str]:
    """Another process that holds `count` of three GPUs, and which."""
    command = [sys.executable, "-c", HOLD, str(count), str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_gpu_is_held_by_one_training_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    first, held = holder(2, tmp_path)
    assert held == "0 1"
    waiting = threading.Event()
    outcome: list[list[str]] = []

    def wait_for_two() -> None:
        waiting.set()
        with gpus.hold(2, ["0", "1", "2"], tmp_path, poll_seconds=0.05) as mine:
            outcome.append(mine)

    thread = threading.Thread(target=wait_for_two)
    thread.start()
    waiting.wait()
    # whoever waits for two keeps none
    with gpus.hold(1, ["0", "1", "2"], tmp_path, poll_seconds=0.05) as other:
        assert other == ["2"]
        assert outcome == []
    first.send_signal(signal.SIGKILL)
    first.communicate()
    thread.join(20)
    assert len(outcome[0]) == 2


@pytest.mark.parametrize(
    ("gpus_here", "each", "expected"),
    [
        (["0", "1"], 1, ["0", "1"]),
        (["0", "1"], 0.5, ["0", "1", "0", "1"]),
        (["0", "1", "2"], 0.4, ["0", "1", "2", "0", "1", "2"]),
        (["0", "1", "2"], 2, ["0,1"]),
        (["0"], 2, []),
        ([], 0.25, []),
    ],
)
def test_a_part_is_of_one_gpu_and_several_are_whole(
    gpus_here: list[str], each: float, expected: list[str]
) -> None:
    assert gpus.shares(gpus_here, each) == expected
    assert gpus.slots(len(gpus_here), each) == len(expected)


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        (None, ["0", "1"]),
        (1.0, ["0", "1"]),
        (0.5, ["0", "0", "1", "1"]),
        (2.0, ["0,1"]),
        (0.0, ["", "", ""]),
    ],
)
def test_a_fan_out_has_a_worker_per_share_and_holds_its_gpus(
    each: float | None,
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpus, "visible", lambda: ["0", "1"])
    monkeypatch.setattr(gpus, "LOCKS", tmp_path)
    monkeypatch.setattr("flows.compute.processes._cores", lambda: 3)
    config = FanOut(gpus=each)

    monkeypatch.delenv(ALLOCATOR, raising=False)

    def look(_: int) -> tuple[int, str]:
        time.sleep(0.2)
        assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
        return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]

    work = fan_out(look, range(4 * len(expected)), config)
    seen = {next(work)}
    with locked(tmp_path / "0", wait=False) as lock:
        assert (lock is not None) == (not each and each is not None)
    seen.update(work)
    assert sorted(devices for _, devices in seen) == expected


def test_more_gpus_than_there_are_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "visible", list)
    with pytest.raises(ConfigError, match=r"fanout\.gpus = 0\.25, but this machine has 0 GPUs"):
        list(fan_out(str, range(3), FanOut(gpus=0.25)))
    assert sorted(fan_out(str, range(3), FanOut(workers=1))) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("processes", "found", "expected"),
    [(2, 0, 2), (2, 1, 1), (2, 8, 2), (8, 8, 8), (8, 4, 4), (8, 3, 2)],
)
def test_no_two_ranks_share_a_gpu_and_meta_batches_divide_evenly(
    processes: int, found: int, expected: int
) -> None:
    assert gpus.ranks(processes, 8, found) == expected


@pytest.mark.parametrize(
    ("each", "expected"), [(0.25, (0.25, 9)), (0.4, (0.4, 7)), (1.5, (2.0, 1)), (None, (1.0, 4))]
)
def test_ray_s_nodes_have_room_by_the_same_rule(
    each: float | None, expected: tuple[float, int]
) -> None:
    nodes = [{"CPU": 8.0, "GPU": 3.0}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 16.0}]
    assert room(nodes, FanOut(gpus=each)) == expected
    assert room(nodes, FanOut(gpus=0)) == (0.0, 25)
    assert room(nodes[2:], FanOut()) == (0.0, 16)


@pytest.mark.parametrize(
    ("processes", "found", "per_gpu", "expected"),
    [(4, 1, 4, (4, 1)), (8, 3, 4, (8, 2)), (8, 4, 1, (4, 4)), (2, 0, 4, (2, 0))],
)
def test_what_a_training_takes_is_said_once_for_its_locks_and_prefect_s_slots(
    processes: int, found: int, per_gpu: int, expected: tuple[int, int]
) -> None:
    assert gpus.training(processes, 8, found, per_gpu) == expected


@pytest.mark.parametrize(
    ("processes", "found", "per_gpu", "expected", "held"),
    [(4, 1, 4, 4, ["0"]), (4, 1, 3, 2, ["0"]), (8, 3, 4, 8, ["0", "1"]), (2, 4, 4, 2, ["0"])],
)
def test_ranks_share_gpus_where_they_may(
    processes: int,
    found: int,
    per_gpu: int,
    expected: int,
    held: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpus, "visible", lambda: [str(gpu) for gpu in range(found)])
    monkeypatch.setattr(gpus, "LOCKS", tmp_path)
    seen: list[str] = []

    def run_ranks(count: int, *_command: str) -> int:
        seen.append(os.environ[gpus.VARIABLE])
        return 100 + count

    monkeypatch.setattr(ranks, "run_ranks", run_ranks)
    code = ranks.run_training(processes, 8, "auto", list, "module", per_gpu=per_gpu)
    assert code == 100 + expected
    assert seen == [",".join(held)]


def test_a_training_on_a_machine_with_one_gpu_is_one_rank_that_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "visible", lambda: ["3"])
    monkeypatch.setattr(gpus, "LOCKS", tmp_path)
    monkeypatch.setattr(ranks, "run_ranks", lambda count, *command: 100 + count)
    monkeypatch.delenv(gpus.VARIABLE, raising=False)
    seen: list[str] = []

    def alone() -> None:
        with locked(tmp_path / "3", wait=False) as lock:
            seen.append(f"{os.environ[gpus.VARIABLE]} {lock} {os.environ[ALLOCATOR]}")

    monkeypatch.delenv(ALLOCATOR, raising=False)
    assert ranks.run_training(2, 8, "auto", alone, "module") == 0
    assert seen == ["3 None expandable_segments:True"]
    assert not {gpus.VARIABLE, ALLOCATOR} & set(os.environ)
    monkeypatch.setenv(ALLOCATOR, "backend:cudaMallocAsync")  # a user's own stays
    assert ranks.run_training(2, 8, "auto", alone, "module") == 0
    assert seen[1] == "3 None backend:cudaMallocAsync"
    assert os.environ[ALLOCATOR] == "backend:cudaMallocAsync"
    assert ranks.run_training(2, 8, "cpu", alone, "module") == 102


def test_only_visible_gpus_count(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv(gpus.VARIABLE, "4, 6")
    assert gpus.visible() == ["4", "6"]
    monkeypatch.delenv(gpus.VARIABLE)
    assert gpus.visible() == ["0", "1"]
    assert gpus.VARIABLE not in os.environ
