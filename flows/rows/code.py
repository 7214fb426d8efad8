"""The code that a row depends on: a module and all that it imports of ours, found in the source,
and the versions of the libraries that compute.

`python -m flows.rows.code flows.stages.predict` lists the files of a module's closure. The keys of
cached rows have their digest, and a test holds the `deps` of dvc.yaml against them, so that no list
of code stands anywhere else.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

from flows.settings.imports import PACKAGES, ROOT

COMPUTING = ("torch", "torchvision")
"""Another version of these may round differently, or make another network of a name."""

MACHINERY = ("flows.params", "flows.stages.runner", "flows.tracking")
"""Where closures end: modules that start stages and watch them; a stage's result comes from the
sections that it is given.
"""


@cache
def closure(module: str, root: Path = ROOT) -> tuple[str, ...]:
    """The source files that importing and running `module` may read, relative to `root`, sorted.

    Imports inside functions count, those for types only do not. A name that a package offers by a
    stub (`__init__.pyi`, imported when first used) leads to the module that has it.

    Args:
        module: its full name.
        root: the root of the tree.
    """
    files: set[str] = set()
    waiting = [module]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or (path := _file(name, root)) is None:
            continue
        seen.add(name)
        if _has_code(path):
            files.add(path.relative_to(root).as_posix())
        waiting += _parents(name)
        waiting += _imports(path, name, root)
    return tuple(sorted(files))


@cache
def code_digest(module: str, root: Path = ROOT) -> str:
    """Digest of the names and bytes of the files in the closure of `module`, and of the versions of
    `COMPUTING` (2.9.1 is the same with CUDA and without).
    """
    versions = [version(library).partition("+")[0] for library in COMPUTING]
    hasher = hashlib.blake2b(" ".join(versions).encode(), digest_size=16)
    for name in closure(module, root):
        hasher.update(name.encode() + b"\0" + (root / name).read_bytes() + b"\0")
    return hasher.hexdigest()


def _file(module: str, root: Path) -> Path | None:
    """The source of a module or package of ours; None of what is neither, or machinery."""
    if module.split(".")[0] not in PACKAGES or f"{module}.".startswith(
        tuple(f"{name}." for name in MACHINERY)
    ):
        return None
    stem = root.joinpath(*module.split("."))
    candidates = (stem.with_suffix(".py"), stem / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _has_code(path: Path) -> bool:
    """Whether a file has more than a docstring."""
    body = ast.parse(path.read_bytes()).body
    return not all(
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body
    )


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def _imports(path: Path, module: str, root: Path) -> Iterator[str]:
    """The modules that a source file imports while it is imported or run."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _executed(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
                yield from _offered(alias.name, "*", root)
        else:
            source = _absolute(node, package)
            yield source
            for alias in node.names:
                yield f"{source}.{alias.name}"
                yield from _offered(source, alias.name, root)
                yield from _offered(f"{source}.{alias.name}", "*", root)


def _executed(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements of a tree but those for types only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from (found for other in node.orelse for found in _executed(other))
        else:
            yield from _executed(node)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """The full name of the module that `from ... import` names."""
    if node.level == 0:
        return node.module or ""
    parts = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _offered(package: str, name: str, root: Path) -> Iterator[str]:
    """The module from which a package's stub takes `name`; all of its modules for `*`."""
    for source, names in _stub(package, root):
        if name in names or name == "*":
            yield source
            yield from _offered(source, name, root)


@cache
def _stub(package: str, root: Path) -> tuple[tuple[str, frozenset[str]], ...]:
    path = root.joinpath(*package.split("."), "__init__.pyi")
    if package.split(".")[0] not in PACKAGES or not path.is_file():
        return ()
    return tuple(
        (_absolute(node, package), frozenset(alias.name for alias in node.names))
        for node in ast.parse(path.read_bytes()).body
        if isinstance(node, ast.ImportFrom)
    )


if __name__ == "__main__":
    print("\n".join(closure(sys.argv[1])))
