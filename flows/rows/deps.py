"""The code dependencies of the stages in dvc.yaml, written from what their modules import.

`python -m flows.rows.deps` writes them, comments and all else kept; a test says when to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from flows.rows.code import closure
from flows.settings.imports import PACKAGES, ROOT
from ghn.files import atomic_path

_SHARE = 0.4
"""A directory of which a stage imports so much is one dependency, not a list of files."""

_STAGE = re.compile(r"^  (\w+):$")
_ITEM = re.compile(r"^(\s*)- ([\w./${}-]+)$")


def with_code(text: str) -> str:
    """dvc.yaml's `text` with the code dependencies of each stage behind its others."""
    lines: list[str] = []
    stage, indent = "", None
    for line in text.splitlines():
        if found := _STAGE.match(line):
            stage = found[1]
        item = _ITEM.match(line)
        if indent is not None and item is None:
            code = cover(closure(f"flows.stages.{stage}"))
            lines += [f"{indent}- {path}" for path in code]
            indent = None
        if line.strip() == "deps:":
            indent = " " * (len(line) - len(line.lstrip()) + 2)
        elif indent is not None and item and _is_code(item[2]):
            continue
        lines.append(line)
    return "\n".join(lines) + "\n"


def _is_code(path: str) -> bool:
    """Whether a dependency is for this module to write; trained weights lie in a package too."""
    return path.split("/")[0] in PACKAGES and not path.endswith(".safetensors")


def cover(files: tuple[str, ...]) -> list[str]:
    """Files, and the directories below the packages of which most is among them, sorted."""
    return [path for package in PACKAGES for path in _walk(ROOT / package, set(files))]


def _walk(directory: Path, files: set[str]) -> Iterator[str]:
    inside = {path.relative_to(ROOT).as_posix() for path in directory.rglob("*.py")}
    used = inside & files
    name = directory.relative_to(ROOT).as_posix()
    if name not in PACKAGES and len(used) >= _SHARE * len(inside) > 0:
        yield name
        return
    for child in sorted(directory.iterdir()) if used else ():
        if child.is_dir():
            yield from _walk(child, files)
        elif (path := child.relative_to(ROOT).as_posix()) in files:
            yield path


def main() -> None:
    """Writes dvc.yaml if its code dependencies are not those of the imports."""
    path = ROOT / "dvc.yaml"
    text = path.read_text()
    if (right := with_code(text)) != text:
        with atomic_path(path) as temporary:
            temporary.write_text(right)


if __name__ == "__main__":
    main()
