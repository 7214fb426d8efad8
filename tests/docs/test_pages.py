"""What the pages name exists: files, modules and their members."""

import importlib
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 100
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)")
SOURCE_FILE = re.compile(r"[\w./-]+\.py")
MEMBER = re.compile(r"(?:ghn|datasets|flows)(?:\.\w+)+")
NO_MODULE = {"safetensors", "commands", "changed", "drifted"}
"""A file, an entry point, events of Prefect."""

EXAMPLES = {
    "flows/settings/count.py",
    "flows/stages/count.py",
    "ghn/baselines/_dirac.py",
    "FILE.py",
    "my.py",
}
"""What the walks through architecture.md would add, and the user's own file."""


@cache
def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("no git checkout")
    return listed.stdout.splitlines()


def pages() -> list[str]:
    return [str(page.relative_to(ROOT)) for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]]


def exists(name: str) -> bool:
    """Whether a dotted name is a module or a member of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith(parts[0]):
                raise
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return part in getattr(found, "model_fields", {})  # a field of a configuration
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("page", sorted({*pages()} - {"CHANGELOG.md"}))  # it names what is gone
def test_what_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    spans = CODE.findall(text)
    files = {name for span in spans for name in SOURCE_FILE.findall(span)}
    known = tracked()
    absent = {
        name
        for name in files
        if not any(path == name or path.endswith(f"/{name}") for path in known)
    }
    assert not absent - EXAMPLES
    members = {
        name
        for span in spans
        for name in MEMBER.findall(span)
        if name.split(".")[-1] not in NO_MODULE and "/" not in span
    }
    assert not {name for name in members if not exists(name)}
    links = {link for link in LINK.findall(text) if "://" not in link}
    assert not {link for link in links if not (ROOT / page).parent.joinpath(link).exists()}


WIDTH_CHECKED = [
    *pages(),
    *(str(page.relative_to(ROOT)) for page in ROOT.glob("benchmarks/*.md")),
    "ghn/pretrained/README.md",
]


@pytest.mark.parametrize("page", sorted(WIDTH_CHECKED))
def test_lines_are_no_wider_than_the_codes(page: str) -> None:
    """Tables excepted."""
    lines = (ROOT / page).read_text().splitlines()
    wide = {
        number: line
        for number, line in enumerate(lines, 1)
        if len(line) > WIDTH and not line.startswith("|")
    }
    assert not wide


@pytest.mark.parametrize("package", ["flows", "datasets", "datasets/deepnets", "ghn"])
def test_every_room_is_in_the_figure_of_the_house(package: str) -> None:
    figure = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    without_code = {"pretrained"}
    assert not {room for room in rooms - without_code if f"{room}/" not in figure}


def test_the_readme_runs() -> None:
    """Its lines of Python, on random images."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code is not None
    names = {"loader": [torch.randn(8, 3, 32, 32)]}
    exec(code[1], names)
    model = names["model"]
    assert isinstance(model, torch.nn.Module)
    assert model.eval()(torch.randn(2, 3, 32, 32)).isfinite().all()
