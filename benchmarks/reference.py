"""Where the reference implementation is, for the benchmarks that compare with it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def add_reference(directory: Path, module: str) -> str | None:
    """Makes the reference importable and imports its `module`; otherwise says why not."""
    for name in ("ppuda", "ghn3"):
        if not (directory / name).is_dir():
            return f"{directory} has no checkout {name}"
        sys.path.insert(0, str(directory / name))
    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"the reference cannot be imported: {error}"
    return None
