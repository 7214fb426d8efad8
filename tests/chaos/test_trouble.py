"""Full disks, read-only directories, flipped bytes and two at once: a clear error, never another
result, and the same bytes as ever once the trouble is over.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import stat
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from chaos_tree import PATIENCE, STAGES, Tree

pytestmark = pytest.mark.chaos

ROOM = {
    "generate": 4_000,
    "images": 10_000,
    "train": 20_000,
    "predict": 600,
    "evaluate": 600,
    "finetune": 600,
    "register": 600,
}
"""Bytes that a file may have when the disk is full: less than some file of the stage needs."""

WRITES = {
    "generate": "data/deepnets1m",
    "images": "data/images/digits",
    "train": "models/ghn3",
    "predict": "results",
    "evaluate": "results",
    "finetune": "results",
    "register": "results",
}

READS = [
    ("images", "data/sources/images.json"),
    ("train", "data/sources/train.json"),
    ("train", "data/deepnets1m/train.h5"),
    ("train", "data/deepnets1m/train.parquet"),
    ("train", "data/deepnets1m/val.h5"),
    ("train", "data/images/digits/train-16px.safetensors"),
    ("train", "data/images/digits/about.json"),
    ("train", "reports/validation.json"),
    ("predict", "data/deepnets1m/test.h5"),
    ("predict", "data/deepnets1m/test.parquet"),
    ("predict", "models/ghn3/ghn.safetensors"),
    ("evaluate", "data/images/digits/test-16px.safetensors"),
    ("finetune", "data/sources/inits.json"),
    ("finetune", "results/evaluation.parquet"),
    ("transfer", "data/sources/transfer.json"),
    ("register", "results/evaluation.parquet"),
    ("register", "results/evaluation.json"),
    ("register", "models/ghn3/ghn.safetensors"),
    ("report", "models/ghn3/curve.json"),
    ("report", "models/ghn3/steps.csv"),
    ("report", "results/predictions.parquet"),
    ("report", "results/finetune.parquet"),
    ("report", "results/transfer.parquet"),
]
"""A stage, and a file that it reads."""

CACHES = [
    ("predict", "results/.cache/predict*"),
    ("evaluate", "results/.cache/evaluate*"),
    ("finetune", "results/.cache/trials/**/*.json"),
]
"""A stage, and files that only save it time."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree(tmp_path_factory.mktemp("trouble") / "tree")


@pytest.mark.parametrize("name", ROOM)
def test_a_full_disk_is_named_and_the_stage_goes_on_when_there_is_room(
    tree: Tree, name: str
) -> None:
    """A bound on the size of files ends a write as a full disk does, and needs no superuser."""
    room = (ROOM[name], ROOM[name])
    with tree.kept(name):
        tree.clear(name)
        error = tree.fails(
            STAGES[name].arguments,
            preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, room),
        )
        assert "File too large" in error, error
        tree.finish(STAGES[name].arguments)
        tree.is_as_expected(name)


@pytest.mark.parametrize("name", WRITES)
def test_a_directory_that_cannot_be_written_is_named(tree: Tree, name: str) -> None:
    directory = tree.path / WRITES[name]
    with tree.kept(name):
        tree.clear(name)
        directory.mkdir(parents=True, exist_ok=True)
        error = tree.fails(STAGES[name].arguments, **_read_only(directory))
        assert WRITES[name] in error, error
        assert "Read-only file system" in error or "Permission denied" in error, error
        directory.chmod(0o755)
        tree.finish(STAGES[name].arguments)
        tree.is_as_expected(name)


def _read_only(directory: Path) -> dict[str, object]:
    """Makes a directory read-only for a command: by its mode, or, for the superuser, whom modes do
    not stop, by a mount that only the command sees.
    """
    if os.geteuid() != 0:
        directory.chmod(0o555)
        return {}
    mount = f"mount --bind '{directory}' '{directory}' && mount -o remount,ro,bind '{directory}'"
    prefix = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$0" "$@"']
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("the superuser may not mount here")
    return {"prefix": prefix}


@pytest.mark.parametrize(("name", "file"), READS)
def test_a_flipped_bit_of_what_a_stage_reads_is_named(tree: Tree, name: str, file: str) -> None:
    """Whatever bit it is, and whether or not this run would look at it."""
    path = tree.path / file
    content, mode = path.read_bytes(), stat.S_IMODE(path.stat().st_mode)
    draw = random.Random(f"{name} {file}")
    with tree.kept(name):
        tree.clear(name)
        for _ in range(2):
            _flip(path, content, draw)
            try:
                error = tree.fails(STAGES[name].arguments)
                assert f"{file}: not as stage" in error, error
                assert tree.read(STAGES[name].outputs) == {}
            finally:
                path.write_bytes(content)
                path.chmod(mode)


@pytest.mark.parametrize(("name", "pattern"), CACHES)
def test_a_flipped_bit_of_a_cache_costs_time_only(tree: Tree, name: str, pattern: str) -> None:
    draw = random.Random(name)
    with tree.kept(name):
        tree.clear(name)
        tree.finish(STAGES[name].arguments)
        files = [path for path in tree.path.glob(pattern) if path.is_file() and path.stat().st_size]
        assert files
        for path in files:
            _flip(path, path.read_bytes(), draw)
        for output in STAGES[name].outputs:
            (tree.path / output).unlink()
        tree.finish(STAGES[name].arguments)
        tree.is_as_expected(name)


def test_a_flipped_bit_of_a_checkpoint_costs_steps_only(tree: Tree) -> None:
    draw = random.Random(1)
    with tree.kept("train"):
        tree.clear("train")
        tree.finish(STAGES["train"].arguments)  # cases before this one took its checkpoints away
        for suffix in ("state", "safetensors", "sha256"):
            # best.safetensors may be there too, which nothing goes on from
            name = f".finished-*/checkpoints/step-*.{suffix}"
            (path,) = tree.path.glob(f"models/ghn3/checkpoints/{name}")
            _flip(path, path.read_bytes(), draw)
            error = tree.fails(STAGES["train"].arguments)  # the only one: it was the last
            assert path.stem in error or "no checkpoint is whole" in error
            shutil.rmtree(tree.path / "models/ghn3")
            tree.finish(STAGES["train"].arguments)
            tree.is_as_expected("train")


def _flip(path: Path, content: bytes, draw: random.Random) -> None:
    damaged = bytearray(content)
    damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(7)
    path.unlink()  # a link may lead into a cache
    path.write_bytes(damaged)


@pytest.mark.parametrize("name", ROOM)
def test_of_two_at_once_one_writes_and_the_other_says_why_not(tree: Tree, name: str) -> None:
    with tree.kept(name):
        tree.clear(name)
        start: Callable[..., subprocess.Popen[str]] = tree.start
        both = [start(STAGES[name].arguments) for _ in range(2)]
        errors = [process.communicate(timeout=PATIENCE)[1] for process in both]
        codes = [process.returncode for process in both]
        assert 0 in codes, errors
        for code, error in zip(codes, errors, strict=True):
            assert "Traceback" not in error, error
            assert code == 0 or "already in this tree" in error or "another process" in error, error
        tree.is_as_expected(name)
