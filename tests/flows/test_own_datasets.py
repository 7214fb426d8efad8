"""Both packages named `datasets`: ours in commands and their workers, Hugging Face's outside.

The real one is taken where it is installed, otherwise a distribution of that name is laid out; both
stand in front of the checkout on `sys.path`, as site-packages does before an editable install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def foreign(tmp_path) -> Path:
    """A directory with a foreign package `datasets`."""
    try:
        return Path(str(metadata.distribution("datasets").locate_file("")))
    except metadata.PackageNotFoundError:
        package = tmp_path / "site-packages" / "datasets"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("from .table import Dataset\n")
        (package / "table.py").write_text("class Dataset:\n    pass\n")
        return package.parent


def run(foreign: Path, *arguments: str, cwd: Path) -> str:
    """What a program prints in an environment with both, run outside the checkout."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(foreign), str(ROOT)])}
    process = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


OURS = "from datasets.images import load; from datasets.deepnets import Split; import datasets;"
THEIRS = "from datasets import Dataset; import datasets;"
WHERE = "print(datasets.__file__)"


def test_programs_without_flows_get_theirs(foreign, tmp_path):
    assert run(foreign, "-c", f"{THEIRS} {WHERE}", cwd=tmp_path).startswith(str(foreign))
    library = f"import ghn; ghn.GHN; {THEIRS} {WHERE}"
    assert run(foreign, "-c", library, cwd=tmp_path).startswith(str(foreign))


def test_flows_finds_ours(foreign, tmp_path):
    found = run(foreign, "-c", f"import flows; {OURS} {WHERE}", cwd=tmp_path)
    assert found == str(ROOT / "datasets" / "__init__.py")


def test_a_program_that_has_imported_theirs_gets_ours_as_well(foreign, tmp_path):
    program = f"{THEIRS} import flows; {OURS} {THEIRS} {WHERE}"
    assert run(foreign, "-c", program, cwd=tmp_path).startswith(str(foreign))


def test_commands_and_their_workers_find_ours(foreign, tmp_path):
    assert "train" in run(foreign, "-m", "ghn.cli", "--help", cwd=tmp_path)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["fanout"] = {"workers": 2}
    params["generate"] = {"shard_size": 3, "splits": {"test": {"size": 6}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    run(foreign, "-m", "ghn.cli", "generate", "--split", "test", cwd=tmp_path)
    assert (tmp_path / "data/deepnets1m/test.h5").exists()


WORKERS = """
import multiprocessing, sys
from pathlib import Path

def where(_):
    import datasets.deepnets
    return datasets.__file__

if __name__ == "__main__":
    import flows
    from joblib.externals.loky import ProcessPoolExecutor
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(where, [0])[0])
    print(next(ProcessPoolExecutor(1).map(where, [0])))
"""


def test_processes_that_start_afresh_inherit_the_order(foreign, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(WORKERS)
    found = run(foreign, str(program), cwd=tmp_path).splitlines()
    assert found == [str(ROOT / "datasets" / "__init__.py")] * 2


def test_a_module_of_that_name_is_named(tmp_path):
    (tmp_path / "datasets.py").write_text("")
    program = "import datasets\ntry:\n import flows\nexcept ImportError as e:\n print(e)"
    assert f"{tmp_path / 'datasets.py'} is imported as `datasets`" in run(
        tmp_path, "-c", program, cwd=tmp_path
    )
