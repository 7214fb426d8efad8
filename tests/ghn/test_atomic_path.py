"""Files are whole or absent, and readable by whom the umask says."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ghn.files import atomic_path, sha256


def fails(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with atomic_path(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, ".txt")
        temporary.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(KeyboardInterrupt):
        fails(path)
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]
    assert sha256(path) == "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_the_users(tmp_path: Path, umask: int, mode: int) -> None:
    """safetensors writes files that only their owner can read, whatever the umask."""
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "a.safetensors") as temporary:
            save_file({"x": torch.zeros(2)}, temporary)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == mode
