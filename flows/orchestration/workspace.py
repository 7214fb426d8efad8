"""A checkout beside the tree for a run with other parameters, kept afterwards as a DVC experiment.

Runs with parameters of their own must neither change the tree's params.yaml nor meet each other in
its outputs. So each gets a git worktree at the current commit, which shares DVC's cache with the
tree (unchanged stages are not computed again) and ends as an experiment: `dvc exp show`, `dvc exp
apply` and `dvc exp branch` work on it as on any other.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.params import PARAMS_FILE, load_params, set_params
from flows.settings.dvcfile import read_stages
from ghn.errors import GHNError

LOCK = "dvc.lock"


class WorkspaceError(GHNError):
    """A git or DVC command failed; its output is in the message."""


@dataclass(frozen=True)
class Workspace:
    """A directory with dvc.yaml.

    Attributes:
        directory: of dvc.yaml.
        environment: what a command there needs.
        done: the stages that were brought up to date there; whoever does so notes them.
    """

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def run(self, *command: str) -> str:
        """Runs a command there to its end and returns its output; raises WorkspaceError."""
        result = subprocess.run(
            command,
            cwd=self.directory,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if result.returncode != 0:
            raise WorkspaceError(
                f"{' '.join(command)} failed in {self.directory}:\n{result.stdout.strip()}"
            )
        return result.stdout.strip()

    def dvc(self, *arguments: str) -> str:
        """Runs DVC there."""
        return self.run(sys.executable, "-m", "dvc", *arguments)


@contextmanager
def experiment(
    name: str,
    overrides: Mapping[str, Any],
    profile: str | None = None,
    report: Callable[[str], None] = print,
) -> Iterator[Workspace]:
    """A worktree of HEAD with `profile` and `overrides` in its params.yaml; removed at the end.

    If the body ends without an exception, the stages that it notes in `Workspace.done` are kept as
    a DVC experiment.

    Args:
        name: of the experiment (letters, digits, `-`, `_`, `.`); replaces one of that name.
        overrides: dotted names in params.yaml and their values.
        profile: overlay that is applied first.
        report: gets a line on what was kept.

    Raises:
        WorkspaceError: not in a git repository, or git or DVC refused.
        ConfigError: a parameter is unknown or has a value that is not allowed.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise WorkspaceError(f"experiment name {name!r}: only letters, digits, '-', '_' and '.'")
    tree = Workspace(Path.cwd())
    root = Path(tree.run("git", "rev-parse", "--show-toplevel"))
    directory = root / ".dvc" / "tmp" / "workspaces" / name
    # As DVC does for its own queue: what stages log outlives the workspace
    # (`flows.tracking.client`).
    workspace = Workspace(
        directory, {"PYTHONPATH": str(directory), "DVC_ROOT": str(root), "DVC_EXP_NAME": name}
    )
    _remove(tree, directory)
    tree.run("git", "worktree", "add", "--detach", "--quiet", str(directory), "HEAD")
    try:
        if (local := root / ".dvc" / "config.local").exists():
            shutil.copy(local, directory / ".dvc" / "config.local")
        workspace.dvc("cache", "dir", "--local", tree.dvc("cache", "dir"))
        if (root / LOCK).exists():  # what the tree has computed since its last commit
            shutil.copy(root / LOCK, directory / LOCK)
        workspace.dvc("checkout", "--allow-missing", "--quiet")
        _copy_uncached(root, directory)
        set_params(overrides, profile, directory / PARAMS_FILE)
        yield workspace
        if (
            workspace.done
            # alone: DVC would ask for the outputs of all others too, and take them for made
            # just now
        ):
            report(workspace.dvc("exp", "save", "--force", "--name", name, *workspace.done))
    finally:
        _remove(tree, directory)


def _copy_uncached(root: Path, directory: Path) -> None:
    """Metrics and plots of the tree that are not in DVC's cache, and in git only as of the last
    commit.
    """
    tree = load_params(root / PARAMS_FILE).model_dump(mode="json", by_alias=True)
    for stage in read_stages(tree, root / "dvc.yaml").values():
        for path in stage.uncached:
            if (root / path).is_file():
                (directory / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / path, directory / path)


def _remove(tree: Workspace, directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory, ignore_errors=True)
    tree.run("git", "worktree", "prune")
