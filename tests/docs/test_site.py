"""What the site is made of: pages and notebooks of examples, the interface, parameters."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "docs" / "site"))

from literate import EXAMPLES, cells, to_notebook, to_page  # noqa: E402

NAMES = sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_an_example_is_lost(name: str) -> None:
    script = (EXAMPLES / name).read_text()
    code = "\n".join(cell.text for cell in cells(script) if not cell.prose)
    kept = [line for line in script.partition('"""\n\n')[2].splitlines() if line.strip()]
    ours = [line for line in code.splitlines() if line.strip()]
    assert ours == [line for line in kept if not line.startswith("# ")]
    page = to_page(name, script)
    assert page.startswith("# ")
    assert page.count("```") % 2 == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_the_cells_and_the_same_bytes(name: str) -> None:
    script = (EXAMPLES / name).read_text()
    book = to_notebook(name, script)
    assert book == to_notebook(name, script)
    for cell in json.loads(book)["cells"]:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), name, "exec")


def test_a_notebook_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "initialise_your_network.py"
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in json.loads(to_notebook(name, (EXAMPLES / name).read_text()))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert "predicted 29,418 of 29,418 numbers" in capsys.readouterr().out


def test_messages_of_troubleshooting_are_those_of_the_code() -> None:
    """The words between the gaps of each message stand in the code, or it is DVC's."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    code = " ".join(
        re.sub(r'"\s*\n?\s*f?"', "", path.read_text())
        for package in ("ghn", "datasets", "flows")
        for path in (ROOT / package).rglob("*.py")
    )
    code = re.sub(r"\{[^{}]*\}", "…", code)
    for row in (line for line in page.splitlines() if line.startswith("| `") and "DVC" not in line):
        for message in re.findall(r"`([^`]+)`", row.split("|")[1]):
            words = [
                part.strip(" :=',")
                for part in re.split(r"…|;|'ten'|depth|12|64|params.yaml", message)
            ]
            longest = max(words, key=len)
            if len(longest) > 8 and "batch_size" not in longest:
                assert longest in code, message


def test_the_site_makes_pages_of_all_public_names() -> None:
    pytest.importorskip("mkdocs")
    import hooks

    for package, (folder, _) in hooks.PACKAGES.items():
        stub = (ROOT / folder / "__init__.pyi").read_text()
        public = re.findall(r'^    "(\w+)",', stub.partition("__all__")[2], re.MULTILINE)
        page = hooks.interface(package)
        assert public
        assert not [name for name in public if f".{name}\n" not in page]
    assert "`train.steps`" in hooks.parameters()
