from pathlib import Path

import pyarrow as pa
import pytest

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
