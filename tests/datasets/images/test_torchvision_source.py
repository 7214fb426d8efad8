"""A data set as torchvision leaves it on the disk: MNIST, whose files have a simple format."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.images import MissingImagesError, find_source, load, source_digest
from ghn.errors import DamagedFileError, UnsupportedFormatError


def _write(path: Path, values: np.ndarray) -> None:
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    head = struct.pack(">BBBB", 0, 0, 8, values.ndim) + sizes
    path.write_bytes(head + values.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for split, n in (("train", 40), ("t10k", 20)):
        _write(raw / f"{split}-images-idx3-ubyte", draw.integers(0, 256, (n, 28, 28)))
        _write(raw / f"{split}-labels-idx1-ubyte", np.arange(n) % 10)
    return tmp_path


def test_it_is_read_whatever_the_case_of_its_name(mnist) -> None:
    train, test = (load("mnist", mnist, split, 28) for split in ("train", "test"))
    assert train.classes == test.classes
    assert len(train.classes) == 10
    assert test.labels.tolist() == [k % 10 for k in range(20)]
    assert not train.flip
    raw = (mnist / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    assert test.images[:, 0].numpy().tobytes() == raw
    assert load("MNIST", mnist, "test", 28).digest == test.digest


def test_its_files_are_known_and_their_content_decides(mnist) -> None:
    files = {file for table in find_source("mnist", mnist).values() for file in table.files}
    assert files == set((mnist / "MNIST/raw").iterdir())
    before = source_digest(find_source("mnist", mnist))
    cache = mnist / "cache"
    first = load("mnist", mnist, "test", 28, cache=cache)
    path = mnist / "MNIST/raw/t10k-images-idx3-ubyte"
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(data)
    assert source_digest(find_source("mnist", mnist)) != before
    assert load("mnist", mnist, "test", 28, cache=cache).digest != first.digest


def test_labels_beyond_the_classes_and_broken_images_are_refused(mnist, monkeypatch) -> None:
    table = find_source("mnist", mnist)["test"]
    monkeypatch.setattr(type(table.dataset), "__getitem__", lambda *_: 1 / 0)
    with pytest.raises(DamagedFileError, match=r"mnist/test below .*, image 3: division by zero"):
        table.open(3)(3)
    _write(mnist / "MNIST/raw/t10k-labels-idx1-ubyte", np.full(20, 11))
    with pytest.raises(UnsupportedFormatError, match="mnist/test, row 0: label 11 is beyond"):
        load("mnist", mnist, "test", 28)


def test_splits_are_called_as_ours(tmp_path, folder) -> None:
    for split in ("train", "valid", "test"):
        for name in "ab":
            folder(tmp_path / "country211", split, name)
    assert find_source("Country211", tmp_path).keys() == {"train", "val", "test"}


def test_a_training_split_that_is_called_trainval_is_the_training_split(tmp_path) -> None:
    base = tmp_path / "oxford-iiit-pet"
    for folder in ("images", "annotations"):
        (base / folder).mkdir(parents=True)
    for split, names in (("trainval", ("Abc_1", "Abc_2", "dog_1")), ("test", ("Abc_3", "dog_2"))):
        lines = [f"{name} {1 + (name[0] == 'd')} 1 1\n" for name in names]
        (base / "annotations" / f"{split}.txt").write_text("".join(lines))
        for name in names:
            Image.new("RGB", (20, 20)).save(base / "images" / f"{name}.jpg")
    found = find_source("OxfordIIITPet", tmp_path)
    assert {split: len(table.labels) for split, table in found.items()} == {"train": 3, "test": 2}


@pytest.mark.parametrize("size", [0, 3, 1000])
def test_a_cut_file_is_no_split_that_is_absent(mnist, size: int) -> None:
    path = mnist / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DamagedFileError, match=r"mnist below .*, train: .*download it again"):
        find_source("mnist", mnist)


def test_images_without_their_labels_are_damage(mnist) -> None:
    _write(mnist / "MNIST/raw/train-labels-idx1-ubyte", np.arange(30) % 10)
    with pytest.raises(DamagedFileError, match=r"mnist/train .*: 40 images and 30 labels"):
        load("mnist", mnist, "train", 28)
    (mnist / "MNIST/raw/train-labels-idx1-ubyte").unlink()
    with pytest.raises(DamagedFileError, match=r"MNIST/raw: .*not found.*download it again"):
        find_source("mnist", mnist)


def test_a_damaged_download_is_not_absent(tmp_path) -> None:
    with pytest.raises(MissingImagesError):
        find_source("CIFAR10", tmp_path)
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"half")
    with pytest.raises(DamagedFileError, match=r"cifar-10-batches-py: .*download it again"):
        find_source("CIFAR10", tmp_path)
