import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.rows import provenance
from flows.rows.provenance import dvc_hash, require_own_code, revision

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    git("config", "user.email", "a@b.c")
    git("config", "user.name", "a")
    (tmp_path / "code.py").write_text("a = 1\n")
    git("add", "code.py")
    git("commit", "-q", "-m", "first")
    revision.cache_clear()
    yield tmp_path
    revision.cache_clear()


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_revision_says_dirty_for_tracked_files_but_not_for_what_a_run_writes(
    repository: Path,
) -> None:
    head = git("rev-parse", "HEAD")
    assert revision() == head
    (repository / "new.txt").write_text("untracked")
    (repository / "dvc.lock").write_text("x")
    (repository / "experiments").mkdir()
    (repository / "experiments" / "dvc.lock").write_text("x")
    (repository / "results").mkdir()
    (repository / "results" / "evaluation.json").write_text("{}")
    git("add", "dvc.lock", "experiments", "results")
    revision.cache_clear()
    assert revision() == head
    (repository / "code.py").write_text("a = 2\n")
    revision.cache_clear()
    assert revision() == f"{head}-dirty"


def test_revision_outside_a_repository_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    revision.cache_clear()
    assert revision() == "unknown"
    revision.cache_clear()


def test_hashes_are_those_of_dvc(repository: Path) -> None:
    directory = repository / "data"
    (directory / "b").mkdir(parents=True)
    (directory / "a.txt").write_text("one")
    (directory / "b" / "ä.bin").write_bytes(bytes(range(256)))
    (directory / "b" / "0.txt").write_text("")
    (repository / "file.bin").write_bytes(b"\x00" * 1000)
    for command in (["init", "-q"], ["add", "-q", "data", "file.bin"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], check=True, capture_output=True)
    for name in ("data", "file.bin"):
        recorded = yaml.safe_load((repository / f"{name}.dvc").read_text())["outs"][0]["md5"]
        assert dvc_hash(name) == recorded
    assert dvc_hash("absent") is None


def test_hash_of_large_data_comes_from_the_lock_file(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "big.bin").write_bytes(b"abc")
    (repository / "dvc.lock").write_text(
        yaml.safe_dump(
            {"stages": {"make": {"outs": [{"path": "big.bin", "md5": "from the lock file"}]}}}
        )
    )
    assert dvc_hash("big.bin") == "900150983cd24fb0d6963f7d28e17f72"
    monkeypatch.setattr(provenance, "LARGE", 2)
    assert dvc_hash("big.bin") == "from the lock file"


def test_another_checkout_s_code_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "clone"
    (other / "flows" / "stages").mkdir(parents=True)
    (other / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    command = [sys.executable, "-c", "from ghn.cli import main; main()", "report"]
    result = subprocess.run(
        command,
        cwd=other,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert f"the code that runs is that of {ROOT}" in result.stderr
    assert "Traceback" not in result.stderr
    require_own_code(ROOT)
    require_own_code(tmp_path)  # no checkout: a directory of results
