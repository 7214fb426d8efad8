"""Worktrees beside the tree: named by their parameters, kept until a run in them succeeds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.orchestration import workspace
from flows.orchestration.workspace import WORKSPACES, Workspace, experiment
from ghn.errors import ConfigError
from ghn.locks import locked

ROOT = Path(__file__).resolve().parents[2]

DVC_YAML = """
stages:
  train:
    cmd: mkdir -p models && echo ${base.seed} >> models/log && cp models/log models/out
    params: [base.seed]
    outs: [models/out]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "params").mkdir()
    shutil.copy(ROOT / "params.yaml", root)
    shutil.copy(ROOT / "params" / "tiny.yaml", root / "params")
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / ".gitignore").write_text("models/\n")
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        ["git", "add", "-A"],
        ["git", *author, "commit", "-qm", "start"],
    ):
        subprocess.run(command, cwd=root, check=True)
    return root


@pytest.fixture(autouse=True)
def _inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


def kept(project: Path) -> list[Path]:
    return sorted(path for path in (project / WORKSPACES).glob("*") if path.is_dir())


def test_a_run_that_did_not_succeed_goes_on_where_it_was(project: Path) -> None:
    params = project / "params.yaml"
    params.write_text(re.sub(r"(?m)^  seed: \d+", "  seed: 4", params.read_text(), count=1))

    def cancelled() -> None:
        with experiment("first", {"train.steps": 77}, report=lambda _: None) as first:
            # The tree's parameters hold, also those that are not committed.
            text = (first.directory / "params.yaml").read_text()
            assert re.search(r"(?m)^  seed: 4", text)
            assert re.search(r"(?m)^  steps: 77", text)
            stop(first.directory)

    def stop(directory: Path) -> None:
        (directory / "models").mkdir(exist_ok=True)
        (directory / "models" / "checkpoint").write_text("step 40")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cancelled()
    (first,) = kept(project)
    with experiment("other", {"train.steps": 78}, report=lambda _: None) as other:
        assert other.directory != first
        assert not (other.directory / "models" / "checkpoint").exists()
    with experiment("second", {"train.steps": 77}, report=lambda _: None) as second:
        assert second.directory == first
        assert (second.directory / "models" / "checkpoint").read_text() == "step 40"
        assert second.environment["DVC_EXP_NAME"] == "second"
    assert list((project / WORKSPACES).glob("*")) == []
    listed = subprocess.run(["git", "worktree", "list"], capture_output=True, text=True)
    assert len(listed.stdout.splitlines()) == 1


def test_parameters_that_are_wrong_leave_nothing(project: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"train\.nonsense"),
        experiment("a", {"train.nonsense": 1}),
    ):
        pass
    with pytest.raises(ConfigError, match="unknown profile"), experiment("a", {}, "papre"):
        pass
    assert list((project / WORKSPACES).glob("*")) == []


def test_what_nobody_came_back_to_is_removed_unless_somebody_works_in_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, busy = (project / WORKSPACES / name for name in ("old", "busy"))
    for directory in (old, busy):
        directory.mkdir(parents=True)
        os.utime(directory, (0, 0))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(busy.with_suffix(".lock"))],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    workspace._prune(Workspace(project), project)
    assert kept(project) == [busy]
    holder.kill()
    holder.wait()
    holder.stdout.close()
    workspace._prune(Workspace(project), project)
    assert kept(project) == []


HOLD = """
import pathlib, sys, time
from ghn.locks import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_free_when_it_is_released_and_its_file_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path) as held, locked(path, wait=False) as again:
        assert held is not None
        assert again is None
    assert not path.exists()
    with locked(path, wait=False) as held:
        assert held is not None
