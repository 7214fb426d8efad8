"""Stages that are killed at any moment and started again give the bytes of a run that was not.

`pytest -m chaos` (or `make chaos`) kills a hundred times; a few of these are in the fast suite.
"""

from __future__ import annotations

import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
from chaos_tree import STAGES, Tree

KILLS = {
    "generate": 30,
    "flow": 4,
    "register": 8,
    "images": 16,
    "train": 12,
    "predict": 12,
    "evaluate": 9,
    "finetune": 9,
}
SEED = 15


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree(tmp_path_factory.mktemp("chaos") / "tree")


def test_there_are_a_hundred_kills() -> None:
    assert sum(KILLS.values()) == 100
    assert KILLS.keys() <= STAGES.keys()


@pytest.mark.chaos
@pytest.mark.parametrize("name", KILLS)
def test_killed_at_any_moment_a_stage_ends_with_the_same_bytes(
    tree: Tree, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without a server of its own, which a terminal's Ctrl-C leaves alone, a flow would start one
    # that Ctrl-C ends with it, and Prefect's client then tries for minutes to report to it.
    with tree.prefect() if name == "flow" else nullcontext():
        counted = tree.kill(name, KILLS[name], SEED)
    print(
        f"chaos: {name}: {counted.total} kills {counted.by_signal}, {counted.completed} completed"
    )
    assert counted.total == KILLS[name]


@pytest.mark.chaos
def test_killed_registrations_leave_one_version(tree: Tree) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tree.path}/mlflow.db")
    assert len(client.search_model_versions("name='ghn3'")) == 1


def test_a_killed_generation_goes_on(tmp_path: Path) -> None:
    """The selection for every day: each signal once, in the stage that starts fastest."""
    name = "generate"
    tree = Tree(tmp_path / "tree", [STAGES[name].arguments])
    counted = tree.kill(name, 3, SEED)
    assert counted.total == 3
    assert set(counted.by_signal) <= {signal.Signals(n).name for n in (2, 9, 15)}
