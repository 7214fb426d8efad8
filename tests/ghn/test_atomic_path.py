"""Files are whole or absent, and readable by whom the umask says."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ghn.errors import ConfigError
from ghn.files import atomic_path, file_stamp, sha256, sort_metadata


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


FULL = """
import resource, sys
from pathlib import Path
import h5py, pyarrow, torch
from pyarrow import parquet
from safetensors.torch import save_file
from ghn.files import atomic_path
big = torch.rand(100_000)

def to_file(path):
    with path.open("wb") as file:
        torch.save({"x": big}, file)

def to_hdf5(path):
    with h5py.File(path, "w") as file:
        file["x"] = big.numpy()

writers = {
    "text": lambda path: path.write_text("x" * 100_000),
    "safetensors": lambda path: save_file({"x": big}, path),
    "torch": to_file,
    "hdf5": to_hdf5,
    "parquet": lambda path: parquet.write_table(pyarrow.table({"x": big.numpy()}), path),
}
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for name, write in writers.items():
    try:
        with atomic_path(Path(sys.argv[1]) / name) as temporary:
            write(temporary)
    except OSError as error:
        print(name, error.errno, error.filename, error.strerror)
"""


def test_a_full_disk_has_one_error_whatever_library_writes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        f"{name} {errno.EFBIG} {tmp_path / name} {os.strerror(errno.EFBIG)}"
        for name in ("text", "safetensors", "torch", "hdf5", "parquet")
    ]
    assert list(tmp_path.iterdir()) == []


def test_errors_of_other_files_and_bugs_are_left_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source"), atomic_path(tmp_path / "to") as to:
        shutil.copyfile(tmp_path / "source", to)
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "to"):
        _ = 1 // 0
    directory = tmp_path / "file"
    directory.touch()
    with pytest.raises(FileExistsError, match="file"), atomic_path(directory / "x"):
        pass


def test_a_file_has_another_stamp_after_every_change(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("a")
    status = path.stat()
    stamps = {file_stamp(path)}
    for text in "bcd":
        path.write_text(text)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        stamps.add(file_stamp(path))
    assert len(stamps) == 4
    time.sleep(0.15)
    assert file_stamp(path) == file_stamp(path)
