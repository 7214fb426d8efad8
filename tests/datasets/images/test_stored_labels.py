"""Labels and class names as they are stored: one numbering for all splits, or a refusal."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.float16(), pa.bool_()])
def test_whole_numbers_of_any_type_are_labels(tmp_path, parquet, kind) -> None:
    values = np.array([0, 1] * 5).astype(kind.to_pandas_dtype())
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


def test_names_that_are_no_names_are_refused(tmp_path, parquet) -> None:
    path = tmp_path / "pets.parquet"
    for names in (["cat", ""], ["cat", None]):
        parquet(path, names=None, huggingface=names)
        with pytest.raises(UnsupportedFormatError, match=r"pets\.parquet: class 1 has an empty"):
            find_source("pets", tmp_path)
    text = pq.read_table(path)
    info = {"info": {"features": {"label": {"names": "ab"}}}}
    pq.write_table(text.replace_schema_metadata({"huggingface": json.dumps(info)}), path)
    with pytest.raises(UnsupportedFormatError, match=r"the names of the classes are no list: 'ab'"):
        find_source("pets", tmp_path)


def test_two_ways_to_name_classes_have_to_agree(tmp_path, parquet) -> None:
    path = parquet(tmp_path / "pets.parquet", names="cat,dog", huggingface=["dog", "cat"])
    with pytest.raises(ConfigError, match="class_names and huggingface name the classes diff"):
        find_source("pets", tmp_path)
    parquet(path, names="cat, tabby,dog", huggingface=["cat, tabby", "dog"])
    assert load("pets", tmp_path, "all").classes == ("cat, tabby", "dog")


def test_a_column_that_is_there_twice_is_refused(tmp_path, parquet) -> None:
    path = parquet(tmp_path / "pets.parquet")
    table = pq.read_table(path)
    pq.write_table(table.append_column("label", table["label"]), path)
    with pytest.raises(UnsupportedFormatError, match=r"pets\.parquet: has column label twice"):
        find_source("pets", tmp_path)


def test_numbers_without_images_are_said(tmp_path, parquet, caplog) -> None:
    """A mark of 255 for what is to be ignored makes 256 classes, and counting from 1 one more."""
    parquet(tmp_path / "pets.parquet", labels=[0, 255] * 5, kind=pa.uint8(), names=None)
    assert load("pets", tmp_path, "all").num_classes == 256
    assert "254 of 256 classes have no images" in caplog.text
