"""Which files are a split, and whether all of them are there."""

import pytest

from datasets.images import find_source
from ghn.errors import ConfigError


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-00000-of-00002"], "has 1 of 2 shards, number 00001 is missing"),
        (["train-00001-of-00002"], "number 00000 is missing"),
        (["train-00000-of-00003", "train-00002-of-00003"], "number 00001 is missing"),
        (["train-00000-of-00002-0a1b2c3d4e"], "number 00001 is missing"),
        (["data/validation-00001-of-00002"], "split 'val' has 1 of 2"),
        (["train-0", "train-2"], "number 00001 is missing"),
        (["train-00000-of-99999999999"], "has 1 of 99999999999"),
        (["train-00002-of-00002"], "is missing"),
        (["train-00000-of-00001", "train"], "there more than once"),
        (["train-00000-of-00001", "data/train-00000-of-00001"], "there more than once"),
        (["train-00000-of-00001", "train-00001-of-00002"], "there more than once"),
    ],
)
def test_missing_and_doubled_shards_are_noticed(tmp_path, parquet, names, message) -> None:
    for name in names:
        parquet(tmp_path / "pets" / f"{name}.parquet")
    with pytest.raises(ConfigError, match=message):
        find_source("pets", tmp_path)


def test_a_shard_by_its_path_is_not_the_whole(tmp_path, parquet) -> None:
    path = parquet(tmp_path / "train-00000-of-00002.parquet")
    with pytest.raises(ConfigError, match="has 1 of 2 shards"):
        find_source(str(path))


@pytest.mark.parametrize(
    "names",
    [
        ["train"],
        ["train-0", "train-1"],
        ["train-00000-of-00001"],
        [f"train-{k:05}-of-00012-0a1b2c3d4e" for k in range(12)],
    ],
)
def test_whole_splits_are_read_in_order(tmp_path, parquet, names) -> None:
    for k, name in enumerate(names):
        parquet(tmp_path / "pets" / f"{name}.parquet", range(k, k + 3))
    assert [path.stem for path in find_source("pets", tmp_path)["train"].files] == names


def test_files_beside_each_other(tmp_path, parquet) -> None:
    """The files of another data set whose name begins in the same way are not this one's."""
    for name in ("pets-train", "pets-test", "pets-sample-1000", "pets-two-train"):
        parquet(tmp_path / f"{name}.parquet")
    assert set(find_source("pets", tmp_path)) == {"train", "test"}
    assert set(find_source("pets-two", tmp_path)) == {"train"}
    with pytest.raises(ConfigError, match="no images named"):
        find_source("pet", tmp_path)
