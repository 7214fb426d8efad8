"""Labels and class names as they are stored: one numbering for all splits, or a refusal."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.images import find_source, load
from datasets.images.sources.labels import check_labels
from ghn.errors import ConfigError, GHNError, UnsupportedFormatError

FLOAT, LIST = pa.float64(), pa.list_(pa.int64())


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([0, None] * 5, pa.int64(), "row 1: label is null"),
        ([None] * 10, pa.null(), "column label is null"),
        ([0] * 9 + [-1], pa.int64(), "row 9: label -1 marks an image without a label"),
        ([0, -7] * 5, pa.int64(), "row 1: label -7 is negative"),
        ([0.0, 1.5] * 5, FLOAT, "row 1: label 1.5 is not the number of a class"),
        ([0.0, float("nan")] * 5, FLOAT, "row 1: label nan is not the number"),
        ([0.0, float("inf")] * 5, FLOAT, "row 1: label inf is beyond"),
        ([0, 2] * 5, pa.int64(), "row 1: label 2 is beyond the 2 class names"),
        ([0, 2**63] * 5, pa.uint64(), "row 1: label 9223372036854775808 is beyond"),
        (["cat", "dog"] * 5, pa.string(), "column label is string"),
        ([[0], [1]] * 5, LIST, "column label is list"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(
    tmp_path, parquet, labels, kind, message
) -> None:
    parquet(tmp_path / "pets/train-0.parquet", labels=labels, kind=kind)
    parquet(tmp_path / "pets/test-0.parquet")
    with pytest.raises(UnsupportedFormatError, match=rf"train-0\.parquet.*{message}"):
        load("pets", tmp_path)


def test_a_number_that_is_no_class_does_not_fill_the_memory(tmp_path, parquet) -> None:
    parquet(tmp_path / "pets.parquet", labels=[0, 10**12] * 5, names=None)
    with pytest.raises(UnsupportedFormatError, match="is beyond 1000000 classes"):
        find_source("pets", tmp_path)


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.float32(), pa.bool_()])
def test_whole_numbers_of_any_type_are_labels(tmp_path, parquet, kind) -> None:
    values = [bool(v) if kind == pa.bool_() else v for v in [0, 1] * 5]
    parquet(tmp_path / "pets.parquet", labels=values, kind=kind)
    assert load("pets", tmp_path, "all").labels.tolist() == [0, 1] * 5


def test_classes_without_names_are_numbered_over_all_splits(tmp_path, parquet) -> None:
    parquet(tmp_path / "pets/train-0.parquet", labels=[0, 1, 2, 3, 4] * 2, names=None)
    parquet(tmp_path / "pets/test-0.parquet", labels=[0, 1] * 5, names=None)
    train, test = (load("pets", tmp_path, split) for split in ("train", "test"))
    assert train.classes == test.classes == ("0", "1", "2", "3", "4")


def test_names_of_one_split_are_those_of_all(tmp_path, parquet) -> None:
    parquet(tmp_path / "pets/train-0.parquet", names=None, huggingface=["cat, tabby", "dog"])
    parquet(tmp_path / "pets/test-0.parquet", names=None)
    train, test = (load("pets", tmp_path, split) for split in ("train", "test"))
    assert train.classes == test.classes == ("cat, tabby", "dog")


def test_splits_that_name_their_classes_differently_are_refused(tmp_path, parquet) -> None:
    parquet(tmp_path / "pets/train-0.parquet", names="cat,dog")
    parquet(tmp_path / "pets/test-0.parquet", names="dog,cat")
    with pytest.raises(ConfigError, match="name the classes differently"):
        load("pets", tmp_path)


def test_a_split_without_rows_is_refused(tmp_path, parquet) -> None:
    parquet(tmp_path / "pets/train-0.parquet")
    parquet(tmp_path / "pets/test-0.parquet", [])
    with pytest.raises(ConfigError, match=r"test-0\.parquet: split 'test' has no images"):
        load("pets", tmp_path)


SCALARS = st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=2))


@given(st.lists(st.one_of(SCALARS, st.lists(SCALARS, max_size=2)), max_size=5))
def test_any_list_gives_labels_or_the_projects_errors(values) -> None:
    try:
        labels, message = check_labels(values, "here", 3), ""
    except GHNError as error:
        labels, message = np.empty(0, dtype=np.int64), str(error)
    assert labels.dtype == np.int64
    assert set(labels.tolist()) <= {0, 1, 2}
    assert not message or message.startswith("here")
