"""A checkout beside the tree for a run with other parameters, kept afterwards as a DVC experiment.

Runs with parameters of their own must neither change the tree's params.yaml nor meet each other in
its outputs. So each gets a git worktree at the current commit with the tree's params.yaml, which
shares DVC's cache with the tree (unchanged stages are not computed again) and ends as an
experiment: `dvc exp show`, `dvc exp apply` and `dvc exp branch` work on it as on any other.

A worktree is named by its parameters and stays until a run in it succeeds. So a run that was
cancelled, failed or killed goes on, checkpoints and finished rows included, as soon as another
asks for the same parameters. A lock keeps two from one worktree; what nobody came back to for
`KEEP_DAYS` is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.compute.shell import Commands
from flows.params import LAPTOP, PARAMS_FILE, load_params, set_params
from flows.settings.dvcfile import read_stages
from ghn.errors import ConfigError, GHNError
from ghn.locks import locked

LOCK = "dvc.lock"
WORKSPACES = Path(".dvc/tmp/workspaces")
KEEP_DAYS = 14


class WorkspaceError(GHNError):
    """A git or DVC command failed; its output is in the message."""


@dataclass(frozen=True)
class Workspace:
    """A directory with dvc.yaml.

    Attributes:
        directory: of dvc.yaml.
        environment: what a command there needs.
        done: the stages that were brought up to date there; whoever does so notes them.
        lock: descriptor that commands there inherit, so that nobody else takes the directory
            before the last of them has ended.
        commands: what runs stages there; ended when the run is cancelled.
    """

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    lock: int | None = None
    commands: Commands = field(default_factory=Commands, compare=False)

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
    """A worktree of HEAD with `profile` and `overrides` over the tree's params.yaml.

    If the body ends without an exception, the stages that it notes in `Workspace.done` are kept as
    a DVC experiment, and the worktree is removed. Otherwise it stays, and the next call with the
    same parameters goes on in it; one that is going on is waited for.

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
    directory = root / WORKSPACES / _key(root, overrides, profile)
    _prune(tree, root)
    with locked(directory.with_suffix(".lock")) as lock:
        # As DVC does for its own queue: what stages log outlives the workspace
        # (`flows.tracking.client`).
        environment = {"PYTHONPATH": str(directory), "DVC_ROOT": str(root), "DVC_EXP_NAME": name}
        workspace = Workspace(directory, environment, lock=lock)
        try:
            _prepare(tree, root, workspace, overrides, profile)
        except ConfigError:  # the same parameters will never be right
            _remove(tree, directory)
            raise
        try:
            yield workspace
        except BaseException:
            report(f"{directory} is kept: a run with the same parameters goes on there")
            raise
        # The stages alone: DVC would ask for the outputs of all others too, and take them for made
        # just now.
        if workspace.done:
            report(workspace.dvc("exp", "save", "--force", "--name", name, *workspace.done))
        _remove(tree, directory)


def _key(root: Path, overrides: Mapping[str, Any], profile: str | None) -> str:
    """Identifies the parameters: those of the tree, with the profile, and what overrides them."""
    tree = load_params(root / PARAMS_FILE, profile).tree()
    text = json.dumps([tree, overrides], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _prepare(
    tree: Workspace,
    root: Path,
    workspace: Workspace,
    overrides: Mapping[str, Any],
    profile: str | None,
) -> None:
    """Makes the worktree, or brings one that was left to the tree's commit; sets its parameters."""
    directory = workspace.directory
    commit = tree.run("git", "rev-parse", "HEAD")
    stamp = directory / ".dvc" / "tmp" / "prepared"  # ignored by git
    if not stamp.exists():
        _remove(tree, directory)
        tree.run("git", "worktree", "add", "--detach", "--quiet", str(directory), commit)
    elif stamp.read_text() != commit:
        stamp.unlink()
        workspace.run("git", "checkout", "--force", "--detach", "--quiet", commit)
    if not stamp.exists():
        if (local := root / ".dvc" / "config.local").exists():
            shutil.copy(local, directory / ".dvc" / "config.local")
        workspace.dvc("cache", "dir", "--local", tree.dvc("cache", "dir"))
        if (root / LOCK).exists():  # what the tree has computed since its last commit
            shutil.copy(root / LOCK, directory / LOCK)
        workspace.dvc("checkout", "--allow-missing", "--force", "--quiet")
        _copy_uncached(root, directory)
    shutil.copy(root / PARAMS_FILE, directory / PARAMS_FILE)
    set_params(overrides, None if profile == LAPTOP else profile, directory / PARAMS_FILE)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(commit)


def _copy_uncached(root: Path, directory: Path) -> None:
    """Metrics and plots of the tree that are not in DVC's cache, and in git only as of the last
    commit.
    """
    tree = load_params(root / PARAMS_FILE).tree()
    for stage in read_stages(tree, root / "dvc.yaml").values():
        for path in stage.uncached:
            if (root / path).is_file():
                (directory / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / path, directory / path)


def _prune(tree: Workspace, root: Path) -> None:
    """Removes worktrees that no run is in and that none has prepared for `KEEP_DAYS`."""
    for directory in (root / WORKSPACES).glob("*"):
        if not directory.is_dir():
            continue
        stamp = directory / ".dvc" / "tmp" / "prepared"
        age = time.time() - (stamp if stamp.exists() else directory).stat().st_mtime
        if age > KEEP_DAYS * 24 * 3600:
            with locked(directory.with_suffix(".lock"), wait=False) as lock:
                if lock is not None:
                    _remove(tree, directory)


def _remove(tree: Workspace, directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory, ignore_errors=True)
    tree.run("git", "worktree", "prune")
