import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from train_setting import make_ghn, step_losses

from ghn.files import read_safetensors
from ghn.train.log import read_log

WORKER = Path(__file__).with_name("rank_worker.py")
ROOT = WORKER.parents[3]


def _run(world: int, output: Path, kind: str, worker: Path = WORKER) -> None:
    torchrun = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        if world > 1
        else []
    )
    command = [sys.executable, *torchrun, str(worker), str(output), kind]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ranks")
    for world in (1, 2):
        _run(world, directory, "clean")
    return directory


def test_two_ranks_have_the_gradients_of_one_process(output: Path) -> None:
    one = torch.load(output / "gradients-1-0.pt", weights_only=True)
    for rank in (0, 1):
        two = torch.load(output / f"gradients-2-{rank}.pt", weights_only=True)
        for name, gradient in one.items():
            torch.testing.assert_close(two[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_two_ranks_end_with_the_weights_of_one_process(output: Path) -> None:
    one = torch.load(output / "weights-1-0.pt", weights_only=True)
    two = [torch.load(output / f"weights-2-{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(two[0][name], two[1][name]) for name in one)
    # AdamW divides by the gradient's own size, so where it is all rounding the weights may move
    # differently.
    distance = (
        sum(float((two[0][name] - weight).norm() ** 2) for name, weight in one.items()) ** 0.5
    )
    initial = make_ghn(seed=0).state_dict()
    moved = sum(float((initial[name] - weight).norm() ** 2) for name, weight in one.items()) ** 0.5
    assert distance < 0.01 * moved
    torch.testing.assert_close(
        step_losses(output / "run-1"), step_losses(output / "run-2"), rtol=1e-4, atol=0
    )


def test_a_bad_step_on_one_rank_is_skipped_by_both(tmp_path: Path) -> None:
    _run(2, tmp_path, "poisoned")
    assert [
        json.loads((tmp_path / f"result-2-{rank}.json").read_text())["skipped"] for rank in (0, 1)
    ] == [2, 2]
    weights = [torch.load(tmp_path / f"weights-2-{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    rows = read_log(tmp_path / "run-2" / "steps.jsonl")
    assert [row["step"] for row in rows if row["skipped"]] == [3, 4]


@pytest.mark.parametrize("kind", ["quick", pytest.param("slow", marks=pytest.mark.slow)])
def test_ranks_with_a_disk_each_resume_at_the_step_of_the_first(tmp_path: Path, kind: str) -> None:
    """The slow kind waits longer for an evaluation than for anything else."""
    _run(2, tmp_path, kind, WORKER.with_name("disk_worker.py"))


def _found(output: Path, world: int, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / f"found-{world}-{rank}.json").read_text())
    return found


def test_ranks_share_an_evaluation_in_parts(tmp_path: Path) -> None:
    for world in (1, 2):
        _run(world, tmp_path, "0", WORKER.with_name("evaluation_worker.py"))
    first, second = (_found(tmp_path, 2, rank) for rank in (0, 1))
    assert (first["done"], second["done"]) == ([0, 2, 4] * 2, [1, 3] * 2)
    assert second["metrics"] == {}
    alone = _found(tmp_path, 1, 0)
    assert alone["done"] == list(range(5)) * 2
    assert first["metrics"] == pytest.approx(alone["metrics"], rel=1e-3)
    weights, _ = read_safetensors(tmp_path / "run-2" / "ghn.safetensors")
    norms = [float(weights[name].norm()) for name, _ in make_ghn().named_parameters()][:5]
    assert [first["metrics"][str(k)] for k in range(5)] == pytest.approx(norms, rel=1e-6)


@pytest.mark.slow
def test_a_part_may_take_longer_than_operations_may(tmp_path: Path) -> None:
    _run(2, tmp_path, "11", WORKER.with_name("evaluation_worker.py"))


def test_what_saves_memory_changes_no_weight(tmp_path: Path) -> None:
    """Recomputed activations and sharded moments, also where a run goes on with another choice."""
    _run(2, tmp_path, "", WORKER.with_name("memory_worker.py"))
    assert (tmp_path / "done").exists()
