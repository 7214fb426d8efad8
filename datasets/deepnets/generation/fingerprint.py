"""Digests of what the shards of a split depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np

import ghn.graph
from datasets.deepnets.store.header import FORMAT_VERSION, Header

_DEEPNETS = Path(__file__).parents[1]
_CODE = (
    *(_DEEPNETS / name for name in ("generation", "graphs", "space", "store")),
    Path(ghn.graph.__path__[0]),
)


def fingerprint(header: Header, forbidden: Iterable[str]) -> str:
    """Identifies the settings of a split.

    Args:
        header: what its files would say, or say, about themselves.
        forbidden: canonical hashes that must not occur.
    """
    fields = {
        "version": FORMAT_VERSION,
        "split": header.split,
        "origin": header.origin,
        "seed": header.seed,
        "rules": header.rules,
        "shard_size": header.shard_size,
        "forbidden": sorted(forbidden),
    }
    return _short(json.dumps(fields, sort_keys=True).encode())


@cache
def code_digest(folders: tuple[Path, ...] = _CODE) -> str:
    """Identifies the code that makes shards, and of the library that draws the random numbers."""
    sources = sorted(
        (f"{folder.name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        for folder in folders
        for path in folder.rglob("*.py")
    )
    parts = [
        np.__version__.encode(),
        *(part for name, text in sources for part in (name.encode(), text)),
    ]
    return _short(b"".join(len(part).to_bytes(8, "little") + part for part in parts))


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
