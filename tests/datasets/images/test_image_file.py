"""The files of decoded images: every bit is covered, every failed write has a name."""

import errno
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from datasets.images import ImageTensors, load
from datasets.images.file import FORMAT
from ghn.errors import DamagedFileError, UnsupportedFormatError


@pytest.fixture
def images() -> ImageTensors:
    pixels = torch.arange(2 * 3 * 16, dtype=torch.uint8).reshape(2, 3, 4, 4)
    return ImageTensors(
        pixels, torch.tensor([1, 0]), ("ä", "b"), (0.1,) * 3, (0.2,) * 3, False, "x"
    )


def test_a_file_comes_back_whole_and_equal_content_is_equal_bytes(images, tmp_path) -> None:
    for name in ("a", "b"):
        images.save(tmp_path / name, {"recipe": "r", "source": "s"})
    again = ImageTensors.open(tmp_path / "a")
    assert torch.equal(again.images, images.images)
    assert torch.equal(again.labels, images.labels)
    fields = ("classes", "mean", "std", "flip", "name", "digest")
    assert all(getattr(again, field) == getattr(images, field) for field in fields)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_any_flipped_bit_is_damage_with_a_name_and_a_way_out(images, tmp_path) -> None:
    path = tmp_path / "train.safetensors"
    images.save(path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for bit in [*range(8 * header), *range(8 * header, 8 * len(whole), 5)]:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=r"train\.safetensors: .*build it again"):
            ImageTensors.open(path)


def test_a_cut_file_is_damage(images, tmp_path) -> None:
    path = tmp_path / "train.safetensors"
    images.save(path)
    whole = path.read_bytes()
    for n in range(0, len(whole), 7):
        path.write_bytes(whole[:n])
        with pytest.raises(DamagedFileError, match=r"train\.safetensors: "):
            ImageTensors.open(path)


def test_something_else_is_said_to_be_something_else(tmp_path) -> None:
    path = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "ghn-images-1"}):
        save_file({"x": torch.zeros(1)}, path, metadata)
        with pytest.raises(UnsupportedFormatError, match=f"this program reads '{FORMAT}'; delete"):
            ImageTensors.open(path)
    with pytest.raises(FileNotFoundError, match=r"run the images stage first: .*nothing"):
        ImageTensors.open(tmp_path / "nothing")


def test_a_whole_file_of_another_version_is_said_to_be_one(tmp_path, monkeypatch) -> None:
    path = tmp_path / "newer.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr("datasets.images.file.FORMAT", "ghn-images-3")
        load("digits", split="test", image_size=8).save(path)
    with pytest.raises(UnsupportedFormatError, match=f"'ghn-images-3', .* reads '{FORMAT}'; del"):
        ImageTensors.open(path)


FULL = """
import resource, sys
from datasets.images import load
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    load("digits", cache=sys.argv[1])
except OSError as error:
    print(error.errno, error.filename)
"""


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path) -> None:
    """A bound on the size of files ends a write as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [
        str(errno.EFBIG),
        str(tmp_path / "digits/train-32px.safetensors"),
    ]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_directory_that_cannot_be_written_is_named(images, tmp_path) -> None:
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(OSError, match=r"Not a directory|File exists") as error:
        images.save(tmp_path / "file" / "train.safetensors")
    assert str(error.value.filename).startswith(str(tmp_path / "file"))


def test_it_prints_in_one_line(images) -> None:
    assert repr(images) == "ImageTensors('x': 2 images of 4 pixels, 2 classes)"
