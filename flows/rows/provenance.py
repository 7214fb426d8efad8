"""Where a result comes from: the git revision of the code and the DVC hashes of data."""

from __future__ import annotations

import subprocess
from functools import cache, lru_cache
from pathlib import Path

from pathspec import GitIgnoreSpec

from flows.settings.files import read_yaml
from flows.settings.imports import ROOT
from ghn.errors import ConfigError
from ghn.files import file_stamp

LARGE = 2 * 1024**3
"""Bytes from which a hash is looked up in dvc.lock instead of being computed."""

OUTPUTS = tuple(
    f":(exclude){path}" for path in ("dvc.lock", "experiments", "models", "reports", "results")
)
"""What a run changes by itself, as git excludes it: dvc.lock, the experiments' stages, the metrics
that git keeps.
"""


def require_own_code(tree: Path) -> None:
    """Raises ConfigError if `tree` is a checkout and the code that runs is another's: results would
    carry a revision that did not make them.
    """
    tree = tree.resolve()
    if tree != ROOT and (tree / "flows" / "stages").is_dir():
        raise ConfigError(
            f"this is the tree {tree}, but the code that runs is that of {ROOT}; install this"
            f" one (`pip install -e {tree}`) or run with PYTHONPATH={tree}"
        )


@cache
def revision() -> str:
    """The git commit of the working tree, with `-dirty` if a tracked file differs from it that no
    stage writes.

    "unknown" outside a git repository (for example in an unpacked archive).
    """
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *OUTPUTS)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if changed else head


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def dvc_hash(path: str | Path) -> str | None:
    """The MD5 by which DVC knows the file or directory (`….dir`) at `path`; None if it does not
    exist.

    DVC's own library computes it. For data above `LARGE` the hash recorded in dvc.lock is returned,
    if there is one: while `dvc repro` runs a stage, the entries of the stages before it are up to
    date.
    """
    path = Path(path)
    files = [path] if path.is_file() else _files(path)
    if sum(file.stat().st_size for file in files) > LARGE and (known := locked_hash(path)):
        return known
    return computed_hash(path)


def computed_hash(path: str | Path) -> str | None:
    """`dvc_hash` from the content, however large that is."""
    from dvc_data.hashfile.hash import file_md5
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    path = Path(path)
    if path.is_file():
        return str(file_md5(str(path)))
    if not path.is_dir():
        return None
    tree = Tree()  # type: ignore[no-untyped-call]
    for file in _files(path):
        tree.add(file.relative_to(path).parts, None, HashInfo("md5", file_md5(str(file))))
    tree.digest()
    return str(tree.oid)


def _files(directory: Path) -> list[Path]:
    """What DVC sees of a directory."""
    ignored = _dvcignore()
    return [
        file for file in directory.rglob("*") if file.is_file() and not ignored.match_file(file)
    ]


def _dvcignore() -> GitIgnoreSpec:
    """Reads what .dvcignore leaves out of every dependency and output."""
    path = Path(".dvcignore")
    return GitIgnoreSpec.from_lines(path.read_text().splitlines() if path.exists() else ())


def locked_hash(path: str | Path) -> str | None:
    """The hash that dvc.lock has of an output; None if it has none."""
    lock = Path("dvc.lock")
    if not lock.exists():
        return None
    return _locked(lock.resolve(), file_stamp(lock)).get(Path(path).as_posix())


@lru_cache(maxsize=4)
def _locked(lock: Path, _stamp: tuple[int, ...]) -> dict[str, str]:
    """The hash of each output in dvc.lock."""
    stages = read_yaml(lock).get("stages") or {}
    outs = (out for stage in stages.values() for out in stage.get("outs", []))
    return {Path(out["path"]).as_posix(): str(out["md5"]) for out in outs}
