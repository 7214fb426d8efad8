"""Digests of what rows depend on: values, and the content of files."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from ghn.files import file_stamp, sha256


def digest(*parts: Any) -> str:
    """32 hexadecimal digits that identify JSON-like `parts` (order of dictionary keys aside)."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, computed again only if it may have changed."""
    return _sha256(path.resolve(), file_stamp(path))


@lru_cache(maxsize=64)
def _sha256(path: Path, _stamp: tuple[int, ...]) -> str:
    return sha256(path)
