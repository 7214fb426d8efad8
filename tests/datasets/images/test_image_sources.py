from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from datasets.images import find_source, load
from ghn.errors import ConfigError, DamagedFileError, UnsupportedFormatError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _colours(images: torch.Tensor) -> list[int]:
    return images[:, 0, 4, 4].tolist()


def test_a_hugging_face_directory_with_several_files_per_split(tmp_path: Path, parquet) -> None:
    parquet(tmp_path / "pets/data/train-00000-of-00002.parquet", list(range(10)))
    parquet(tmp_path / "pets/data/train-00001-of-00002.parquet", list(range(10, 20)))
    parquet(tmp_path / "pets/data/test-00000-of-00001.parquet", list(range(50, 57)))
    options = {"name": "pets", "root": tmp_path, "cache": None, "image_size": 16}
    train, val, test = (load(split=split, **options) for split in ("train", "val", "test"))
    assert sorted(_colours(train.images) + _colours(val.images)) == list(range(20))
    assert len(val) == 2
    assert _colours(test.images) == list(range(50, 57))
    assert all(
        label == colour % 2
        for label, colour in zip(train.labels, _colours(train.images), strict=True)
    )
    assert list(train.classes) == ["a", "b"]


def test_a_folder_tree_with_splits(tmp_path: Path, coloured) -> None:
    for split, values in (("train", range(8)), ("val", range(20, 24))):
        for value in values:
            path = tmp_path / "tree" / split / f"class{value % 2}" / f"{value:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(coloured(value))
    # the only stored held-out split is what one tests on
    test = load("tree", tmp_path, "test", 16, cache=None)
    assert sorted(_colours(test.images)) == [20, 21, 22, 23]
    val = load("tree", tmp_path, "val", 16, cache=None, val_fraction=0.25)
    train = load("tree", tmp_path, "train", 16, cache=None, val_fraction=0.25)
    assert (len(val), len(train)) == (2, 6)
    assert sorted(_colours(val.images) + _colours(train.images)) == list(range(8))
    assert list(test.classes) == ["class0", "class1"]


def test_the_cache_serves_a_worker_without_the_source(tmp_path: Path, parquet) -> None:
    source = tmp_path / "source"
    parquet(source / "pets.parquet", list(range(20)))
    first = load("pets", source, cache=tmp_path / "cache", image_size=16)
    (source / "pets.parquet").unlink()
    assert load("pets", source, cache=tmp_path / "cache", image_size=16).digest == first.digest
    with pytest.raises(ConfigError, match="GHN_DATA_ROOT"):
        load("pets", source, cache=tmp_path / "cache", image_size=16, seed=9)


def test_changed_files_are_decoded_again(tmp_path: Path, parquet) -> None:
    parquet(tmp_path / "pets.parquet", list(range(20)))
    first = load("pets", tmp_path, cache=tmp_path / "cache", image_size=16)
    parquet(tmp_path / "pets.parquet", list(range(100, 120)))
    assert load("pets", tmp_path, cache=tmp_path / "cache", image_size=16).digest != first.digest


@pytest.mark.parametrize("absolute", [True, False])
def test_a_name_with_folders_is_a_name(tmp_path: Path, parquet, absolute: bool) -> None:
    parquet(tmp_path / "hub/pets-train.parquet")
    parquet(tmp_path / "hub/pets-test-00000-of-00001.parquet")
    name = str(tmp_path / "hub/pets") if absolute else "hub/pets"
    assert find_source(name, None if absolute else tmp_path).keys() == {"train", "test"}
    missing = str(tmp_path / "hub/none") if absolute else "hub/none"
    with pytest.raises(ConfigError, match=r"no images named .*hub/none-train\.parquet"):
        find_source(missing, tmp_path)


@pytest.mark.parametrize("name", ["EMNIST", "semeion"])
def test_what_torchvision_has_and_is_not_read_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"torchvision's {name} is not read: it "):
        find_source(name, tmp_path)


def test_messages_name_the_file_and_the_row(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no images named 'nothing'"):
        find_source("nothing", tmp_path)
    with pytest.raises(ConfigError, match="choose one of train"):
        load("digits", split="trian")
    pq.write_table(pa.table({"picture": [1]}), tmp_path / "odd.parquet")
    with pytest.raises(UnsupportedFormatError, match="lacks column image, label"):
        find_source("odd", tmp_path)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(DamagedFileError, match=r"cut\.parquet"):
        find_source("cut", tmp_path)
    image = pa.array([{"bytes": b"no image", "path": None}], IMAGE)
    pq.write_table(pa.table({"image": image, "label": [0]}), tmp_path / "bad.parquet")
    with pytest.raises(DamagedFileError, match=r"bad\.parquet, row 0"):
        load("bad", tmp_path, "all", cache=None)


@pytest.mark.data
def test_cifar10_splits(data_root: Path) -> None:
    tables = find_source("cifar10", data_root)
    assert {split: len(table.labels) for split, table in tables.items()} == {
        "train": 50000,
        "test": 10000,
    }
    test = load("cifar10", data_root, "test", cache=None)
    assert len(test) == 10000
    assert test.classes[0] == "airplane"
    assert torch.equal(test.labels.bincount(), torch.full((10,), 1000))
    pixels = test.images.float().mean((0, 2, 3)) / 255
    np.testing.assert_allclose(pixels, test.mean, atol=0.01)
