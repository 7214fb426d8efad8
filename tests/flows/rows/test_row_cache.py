import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.rows.cache import CacheInUseError, FileCache, RowCache
from flows.rows.digest import digest
from flows.rows.schema import identity


def row(architecture: str, **columns: object) -> dict:
    return identity(architecture, "test", "ghn3", 1, "hash") | columns


def test_a_torn_line_is_dropped_and_the_cache_goes_on_after_it(tmp_path: Path) -> None:
    path = tmp_path / "cache.jsonl"
    with RowCache(path) as cache:
        cache.put("a", [row("a")])
        cache.put("b", [row("b")])
    path.write_bytes(path.read_bytes()[:-7])  # killed while writing b
    with RowCache(path) as cache:
        assert list(cache) == ["a"]
        assert cache.get("b") is None
        cache.put("b", [row("b", accuracy=0.25)])
    with RowCache(path) as cache:
        assert len(cache) == 2
        assert cache.get("b") == [row("b", accuracy=0.25)]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk without room for more."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("damaged", [0, -1])
def test_no_row_is_lost_where_a_damaged_file_cannot_be_written_anew(
    tmp_path: Path, damaged: int
) -> None:
    path = tmp_path / "cache.jsonl"
    with RowCache(path) as cache:
        for name in "abc":
            cache.put(name, [row(name, note="." * 100_000)])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[damaged] = b"damaged\n"
    path.write_bytes(b"".join(lines))
    with files_of_at_most(50_000):
        if damaged == -1:  # takes no room
            RowCache(path).close()
        else:
            with pytest.raises(OSError, match=r"cache\.jsonl"):
                RowCache(path)
            assert path.read_bytes() == b"".join(lines)
    with RowCache(path) as cache:
        assert list(cache) == (["a", "b"] if damaged == -1 else ["b", "c"])
    assert list(tmp_path.glob(".tmp-*")) == []


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_garbage_reads_as_fewer_rows(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes
) -> None:
    path = tmp_path_factory.mktemp("cache") / "cache.jsonl"
    with RowCache(path) as cache:
        cache.put("a", [row("a")])
    with path.open("ab") as file:
        file.write(b"\x00" + garbage)
    with RowCache(path) as cache:
        assert list(cache) == ["a"]
        cache.put("c", [row("c")])
    with RowCache(path) as cache:
        assert list(cache) == ["a", "c"]


@settings(deadline=None)
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_changed_bit_never_changes_a_row(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    directory = tmp_path_factory.mktemp("cache")
    rows = {key: [row(key, accuracy=0.25 + n / 7)] for n, key in enumerate("abc")}
    lines, files = RowCache(directory / "cache.jsonl"), FileCache(directory / "files")
    with lines:
        for key, value in rows.items():
            lines.put(key, value)
            files.put(key, value)
    for path in (lines.path, files.path("b")):
        content = bytearray(path.read_bytes())
        content[place % len(content)] ^= 1 << bit
        path.write_bytes(content)
    with RowCache(lines.path) as damaged:
        assert len(damaged) >= 1
        assert all(damaged.get(key) in (None, value) for key, value in rows.items())
    assert files.get("b") in (None, rows["b"])


def test_two_processes_do_not_write_one_cache(tmp_path: Path) -> None:
    with (
        RowCache(tmp_path / "cache.jsonl"),
        pytest.raises(CacheInUseError, match="runs already"),
        RowCache(tmp_path / "cache.jsonl"),
    ):
        pass
    with RowCache(tmp_path / "cache.jsonl"):
        pass


def test_digest_ignores_the_order_of_keys_only() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1, "b": [1, 2]}) != digest({"a": 1, "b": [2, 1]})
