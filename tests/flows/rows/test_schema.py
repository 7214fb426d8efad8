from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.rows.schema import IDENTITY, identity, read_rows, timings_path, write_rows
from ghn.errors import DamagedFileError


def row(architecture: str, **columns: object) -> dict:
    return identity(architecture, "test", "ghn3", 1, "hash") | columns


def test_rows_come_back_with_identity_first_and_nulls_for_absent_values(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    failed = identity("b", "test", "ghn3", 1, "hash", ValueError("no\nluck"))
    write_rows(path, [row("a", accuracy=0.5), failed], {"accuracy": pa.float64()})
    first, second = read_rows(path)
    assert list(first) == [*IDENTITY, "accuracy"]
    assert (first["accuracy"], first["error"]) == (0.5, None)
    assert (second["accuracy"], second["error"]) == (None, "ValueError: no\nluck")


def test_equal_results_are_equal_bytes_however_long_they_took(tmp_path: Path) -> None:
    contents = []
    for seconds in (0.5, 7.0):
        path = tmp_path / "rows.parquet"
        rows = [row("a", accuracy=0.5, seconds=seconds), row("b", accuracy=0.25)]
        write_rows(path, rows, {"accuracy": pa.float64()})
        contents.append(path.read_bytes())
        assert [time["seconds"] for time in read_rows(timings_path(path))] == [seconds, None]
    assert contents[0] == contents[1]


def test_undeclared_and_missing_columns_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    with pytest.raises(ValueError, match="undeclared columns"):
        write_rows(path, [row("a", acuracy=0.5)], {"accuracy": pa.float64()})
    with pytest.raises(ValueError, match="lacks"):
        write_rows(path, [{"architecture": "a"}], {})
    assert list(tmp_path.iterdir()) == []


def test_absent_and_damaged_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError, match="dvc repro"):
        read_rows(tmp_path / "none.parquet")
    path = tmp_path / "rows.parquet"
    write_rows(path, [row("a")], {})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedFileError, match="delete it"):
        read_rows(path)


@settings(deadline=None, max_examples=300)
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_changed_bit_is_named_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    rows = [row(f"net-{i}", accuracy=i / 7, names=[str(i), "x"]) for i in range(20)]
    columns = {"accuracy": pa.float64(), "names": pa.list_(pa.string())}
    write_rows(path, rows, columns)
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)
    try:
        found = read_rows(path)
    except DamagedFileError as error:
        told = str(error)
    else:
        assert found == rows
        return
    assert str(path) in told
    assert "dvc repro" in told
