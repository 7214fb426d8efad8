"""Checkpoints of fine-tuning: one file, a line with the digest of what follows, and the state."""

from __future__ import annotations

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import torch

from ghn.files import atomic_path

_DIGEST = 64


def write(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain containers."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(hashlib.sha256(content).hexdigest().encode() + b"\n")
        file.write(content)


def read(path: Path, device: torch.device) -> dict[str, Any] | None:
    """What `write` wrote, with its tensors on `device`; None if there is no such file.

    A damaged file counts as none, which costs the time that it would have saved and changes
    nothing else; a log message says so.
    """
    if not path.exists():
        return None
    content = path.read_bytes()
    digest, payload = content[:_DIGEST], memoryview(content)[_DIGEST + 1 :]
    if hashlib.sha256(payload).hexdigest().encode() == digest:
        state: dict[str, Any] = torch.load(
            io.BytesIO(payload), weights_only=True, map_location=device
        )
        return state
    logging.getLogger(__name__).warning("%s is damaged; training starts anew", path)
    return None
