"""Files are whole or absent, and readable by whom the umask says."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ghn.errors import ConfigError
from ghn.files import atomic_path, sha256, sort_metadata


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


def test_devices_pipes_and_directories_are_not_replaced(tmp_path: Path) -> None:
    pipe, directory, link = tmp_path / "pipe", tmp_path / "directory", tmp_path / "link"
    os.mkfifo(pipe)
    directory.mkdir()
    link.symlink_to(pipe)
    for path in (pipe, directory, link, Path(os.devnull)):
        before = stat.S_IFMT(path.lstat().st_mode)
        with pytest.raises(ConfigError, match="no regular file"), atomic_path(path):
            pass
        assert stat.S_IFMT(path.lstat().st_mode) == before


def test_a_link_is_replaced_and_what_it_leads_to_is_not(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("cached")
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    with atomic_path(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "cache").read_text() == "cached"
    assert (tmp_path / "link").read_text() == "new"


def test_the_umask_is_never_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(mask: int) -> int:
        raise AssertionError(mask)

    monkeypatch.setattr(os, "umask", fail)
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("x")


def test_equal_tensors_and_metadata_are_equal_bytes(tmp_path: Path) -> None:
    metadata = {name: f'{name} \u00e9 \n \x1f "' for name in "fedcba"}
    paths = [tmp_path / f"{i}.safetensors" for i in range(20)]
    for path in paths:
        save_file({"x": torch.arange(3.0)}, path, metadata=metadata)
    assert len({sha256(path) for path in paths}) > 1  # else `sort_metadata` is not needed any more
    for path in paths:
        sort_metadata(path)
    assert len({sha256(path) for path in paths}) == 1
    with safe_open(paths[0], "pt") as file:
        assert file.metadata() == metadata
        assert file.get_tensor("x").tolist() == [0, 1, 2]
