"""What imports mean, told from the sources: nothing is imported here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_ON_WINDOWS = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}


def packages() -> Iterator[Path]:
    for name in ("ghn", "datasets", "flows"):
        yield from (path.parent for path in (ROOT / name).rglob("__init__.py"))


def names_of(package: Path) -> set[str]:
    """What a package offers by its `__init__`, or the stub that it loads names from."""
    found: set[str] = set()
    for path in package.glob("__init__.py*"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                found |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
    return found


def test_no_name_of_a_package_hides_a_module_of_it() -> None:
    """Or `import ghn.graph.trace as t` would give a function, or not, as imports went before."""
    hidden = {
        f"{package.relative_to(ROOT)}: {name}"
        for package in packages()
        for name in names_of(package)
        if (package / name).is_dir() or (package / f"{name}.py").is_file()
    }
    assert hidden == set()


def test_nothing_imports_at_its_top_what_windows_lacks() -> None:
    for path in (path for package in packages() for path in package.glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not NOT_ON_WINDOWS & {name.partition(".")[0] for name in named}, path
