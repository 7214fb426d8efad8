"""Published numbers that ours are shown next to, in JSON files that say where they are from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def published(name: str) -> dict[str, Any]:
    """Published numbers by the name of their file."""
    path = Path(__file__).with_name(f"{name}.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
