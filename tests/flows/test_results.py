from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.rows import results
from flows.rows.results import RowCache, digest, identity, read_rows, write_rows
from ghn.errors import DamagedFileError


def row(architecture: str, **columns: object) -> dict:
    return identity(architecture, "test", "ghn3", 1, "hash") | columns


def test_rows_come_back_with_identity_first_and_nulls_for_absent_values(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    failed = identity("b", "test", "ghn3", 1, "hash", ValueError("no\nluck"))
    write_rows(path, [row("a", accuracy=0.5), failed], {"accuracy": pa.float64()})
    first, second = read_rows(path)
    assert list(first) == [
        "architecture",
        "split",
        "ghn",
        "seed",
        "revision",
        "data_hash",
        "error",
        "accuracy",
    ]
    assert (first["accuracy"], first["error"]) == (0.5, None)
    assert (second["accuracy"], second["error"]) == (None, "ValueError: no\nluck")
    assert first["revision"] == results.revision()


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


def test_cache_survives_a_torn_line_and_goes_on_after_it(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    with RowCache(path) as cache:
        cache.put("a", row("a"))
        cache.put("b", row("b"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])  # killed while writing b
    with RowCache(path) as cache:
        assert list(cache) == ["a"]
        assert cache.get("b") is None
        cache.put("b", row("b", accuracy=0.25))
    with RowCache(path) as cache:
        assert len(cache) == 2
        assert cache.get("b")["accuracy"] == 0.25


@given(st.binary(max_size=200))
def test_cache_reads_any_garbage_as_fewer_rows(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes
) -> None:
    path = tmp_path_factory.mktemp("cache") / "cache.jsonl"
    with RowCache(path) as cache:
        cache.put("a", row("a"))
    with path.open("ab") as file:
        file.write(b"\x00" + garbage)
    with RowCache(path) as cache:
        assert list(cache) == ["a"]
        cache.put("c", row("c"))
    with RowCache(path) as cache:
        assert list(cache) == ["a", "c"]


def test_digest_ignores_the_order_of_keys_only() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1, "b": [1, 2]}) != digest({"a": 1, "b": [2, 1]})


def test_code_digest_sees_a_changed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "flows" / "x"
    package.mkdir(parents=True)
    (package / "a.py").write_text("a = 1")
    (tmp_path / "flows" / "rows").mkdir()
    monkeypatch.setattr(results, "__file__", str(tmp_path / "flows" / "rows" / "results.py"))
    before = results.code_digest("flows/x")
    (package / "a.py").write_text("a = 2")
    results.code_digest.cache_clear()
    assert results.code_digest("flows/x") != before
    results.code_digest.cache_clear()
