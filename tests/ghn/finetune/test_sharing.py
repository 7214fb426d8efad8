"""Two ranks that train a network together do what one process does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("sharing_worker.py")
ROOT = WORKER.parents[3]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sharing")
    for world in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        done = subprocess.run(
            [sys.executable, *launcher, str(WORKER), str(directory)],
            capture_output=True,
            text=True,
            timeout=300,
            env={"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return directory


def _found(output: Path, world: int, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / f"found-{world}-{rank}.json").read_text())
    return found


def test_the_curve_and_the_weights_are_those_of_one_process(output: Path) -> None:
    one, two = _found(output, 1), _found(output, 2)
    assert one["accuracies"] == two["accuracies"] == _found(output, 2, 1)["accuracies"]
    assert two["losses"][1:] == pytest.approx(one["losses"][1:], rel=1e-5)
    weights = [
        torch.load(output / f"weights-{name}.pt", weights_only=True)
        for name in ("1-0", "2-0", "2-1")
    ]
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=1e-3, atol=1e-5)
        assert torch.equal(weights[1][name], weights[2][name])


def test_they_go_on_from_the_checkpoint_of_the_first(output: Path) -> None:
    for rank in (0, 1):
        found = _found(output, 2, rank)
        assert found["same"]
        assert found["again"] == found["accuracies"]


def test_they_draw_the_same_dropout_when_they_go_on(output: Path) -> None:
    assert [_found(output, world)["dropout"] for world in (1, 2)] == [True, True]


def test_a_loss_that_is_not_finite_on_one_ends_it_on_both(output: Path) -> None:
    assert [_found(output, 2, rank)["poisoned"] for rank in (0, 1)] == [[True, False]] * 2


def test_norms_end_with_the_statistics_of_the_first(output: Path) -> None:
    assert _found(output, 2)["norms"] == _found(output, 2, 1)["norms"]


def test_a_batch_that_does_not_divide_is_refused(output: Path) -> None:
    assert "odd" not in _found(output, 2)
