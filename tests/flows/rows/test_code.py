"""Which code a row depends on."""

from pathlib import Path

import pytest
import yaml

from flows.rows import code
from flows.rows.code import closure, code_digest
from flows.rows.deps import cover, with_code
from flows.settings.dvcfile import read_stages

ROOT = Path(__file__).resolve().parents[3]
FILES = {
    "ghn/__init__.py": "import lazy_loader\n",
    "ghn/__init__.pyi": "from .far import Far\nfrom .unused import Unused\n",
    "ghn/far.py": "class Far: pass\n",
    "ghn/unused.py": "class Unused: pass\n",
    "datasets/__init__.py": '"""Only words."""\n',
    "datasets/used.py": "from . import nearby\n",
    "datasets/nearby.py": "x = 1\n",
    "datasets/types.py": "y = 1\n",
    "flows/stage.py": (
        "from typing import TYPE_CHECKING\nfrom ghn import Far\n"
        "if TYPE_CHECKING:\n    import datasets.types\n"
        "def late():\n    from datasets.used import nearby\n"
    ),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_closure_has_late_imports_and_lazy_names_but_no_types(root: Path) -> None:
    assert closure("flows.stage", root) == (
        "datasets/nearby.py",
        "datasets/used.py",
        "flows/stage.py",
        "ghn/__init__.py",
        "ghn/far.py",
    )


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".py")])
def test_digest_changes_with_the_files_of_the_closure_only(root: Path, name: str) -> None:
    before = code_digest("flows.stage", root)
    with (root / name).open("a") as file:
        file.write("z = 2\n")
    for function in (closure, code_digest):
        function.cache_clear()
    changed = code_digest("flows.stage", root) != before
    # A package that had words only becomes code by the added line.
    outside = ("ghn/unused.py", "datasets/types.py")
    assert changed == (name not in outside)


def test_digest_changes_with_the_libraries_that_compute(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(torch: str, torchvision: str = "0.24.1") -> str:
        versions = {"torch": torch, "torchvision": torchvision}
        monkeypatch.setattr(code, "version", versions.__getitem__)
        code_digest.cache_clear()
        return code_digest("flows.stage", root)

    assert found("2.9.1") == found("2.9.1+cpu") == found("2.9.1+cu130")
    assert len({found("2.9.1"), found("2.9.2"), found("2.9.1", "0.25.0")}) == 3


def test_dvc_yaml_depends_on_the_code_that_runs() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert with_code(text) == text, "run `python -m flows.rows.deps`"


def test_directories_stand_for_most_of_their_files() -> None:
    used = ("flattening", "graph", "paths", "primitives")
    names = ("ghn/errors.py", *(f"ghn/graph/{name}.py" for name in used))
    assert cover(names) == ["ghn/errors.py", "ghn/graph"]
    every = read_stages(yaml.safe_load((ROOT / "params.yaml").read_text()), ROOT / "dvc.yaml")
    for name, stage in every.items():
        for file in closure(f"flows.stages.{name.split('@')[0]}"):
            assert any(file == dep or file.startswith(f"{dep}/") for dep in stage.code), (
                name,
                file,
            )
