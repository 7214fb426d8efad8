"""Decoded images are kept by content: neither names, nor sizes, nor times are an identity."""

import io
import os
import sqlite3
from pathlib import Path

import pytest
from PIL import Image

from datasets.images import load
from datasets.images.sources import digest
from ghn.errors import ConfigError, DamagedFileError


def fill(root: Path, value: int) -> None:
    """Uncompressed files: other pixels, but the same sizes; the times are set to be equal, too."""
    for split, n in (("train", 8), ("test", 4)):
        for name in ("cat", "dog"):
            for i in range(n):
                path = root / split / name / f"{i}.bmp"
                path.parent.mkdir(parents=True, exist_ok=True)
                buffer = io.BytesIO()
                Image.new("RGB", (16, 16), (value,) * 3).save(buffer, "BMP")
                path.write_bytes(buffer.getvalue())
                os.utime(path, (1_600_000_000, 1_600_000_000))


def level(root: Path, cache: Path) -> float:
    return load("pets", root, "train", 16, cache=cache).images.float().mean().item()


def test_other_images_of_the_same_names_sizes_and_times(tmp_path) -> None:
    for root, value in (("one", 10), ("one", 200), ("two", 90), ("one", 200), ("two", 90)):
        if not (tmp_path / root).exists() or value == 200:
            fill(tmp_path / root / "pets", value)
        assert level(tmp_path / root, tmp_path / "cache") == value


def test_a_copy_elsewhere_is_the_same_data(tmp_path, monkeypatch) -> None:
    for root in ("one", "two"):
        fill(tmp_path / root / "pets", 10)
    level(tmp_path / "one", tmp_path / "cache")
    monkeypatch.setattr("datasets.images.loading.decode_rows", lambda *_: pytest.fail("again"))
    assert level(tmp_path / "two", tmp_path / "cache") == 10


def test_load_writes_nothing_unless_asked(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    load("digits", image_size=8)
    assert not list(tmp_path.iterdir())


def test_what_is_prepared_is_read_and_never_written(tmp_path) -> None:
    prepared, cache = tmp_path / "prepared", tmp_path / "cache"
    first = load("digits", image_size=8, cache=prepared)
    path = prepared / "digits/train-8px.safetensors"
    whole = path.read_bytes()
    assert load("digits", image_size=8, prepared=prepared, cache=cache).digest == first.digest
    assert not cache.exists()
    other = load("digits", image_size=8, seed=1, prepared=prepared, cache=cache)
    assert other.digest != first.digest
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedFileError, match=r"prepared/digits/train-8px"):
        load("digits", image_size=8, prepared=prepared, cache=cache)


def test_an_incomplete_source_is_not_answered_by_the_cache(tmp_path, parquet) -> None:
    paths = [parquet(tmp_path / f"pets/train-0000{k}-of-00002.parquet") for k in range(2)]
    load("pets", tmp_path, "train", 16, cache=tmp_path / "cache")
    paths[1].unlink()
    with pytest.raises(ConfigError, match="number 00001 is missing"):
        load("pets", tmp_path, "train", 16, cache=tmp_path / "cache")


@pytest.mark.parametrize("name", ["CIFARmini", "pets.v2", "pets.parquet"])
def test_outputs_are_called_as_the_data_set_is(tmp_path, parquet, name: str) -> None:
    parquet(tmp_path / name / "train-0.parquet")
    parquet(tmp_path / name / "test-0.parquet")
    load(name, tmp_path, "train", 16, cache=tmp_path / "cache")
    assert (tmp_path / "cache" / name / "train-16px.safetensors").is_file()


def test_large_sources_are_hashed_once_until_they_change(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(digest, "LARGE", 0)
    monkeypatch.setattr(digest, "_known", {})
    monkeypatch.setattr(digest, "_SETTLED_NS", -(10**15))  # as if the files were old
    path = tmp_path / "data"
    path.write_bytes(b"one")
    first = digest.file_digests([path])
    monkeypatch.setattr(digest, "_known", {})  # another process
    monkeypatch.setattr(digest, "sha256", lambda _: pytest.fail("hashed again"))
    assert digest.file_digests([path]) == first
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(digest, "LARGE", 0)
    path.write_bytes(b"two")
    assert digest.file_digests([path]) != first
    database = tmp_path / "home/ghn/digests.sqlite"
    sqlite3.connect(database).close()
    database.write_bytes(b"no database")  # only saves time
    assert digest.file_digests([path]) != first


def test_a_file_that_was_just_written_is_hashed_again(tmp_path) -> None:
    """Within a tick of the clock it may change and keep its time."""
    path = tmp_path / "data"
    seen = set()
    for k in range(20):
        path.write_bytes(b"%d" % (k % 10))
        os.utime(path, ns=(1, 1))
        seen.add((k % 10, digest.file_digests([path])[0]))
    assert len(seen) == 10


def test_a_source_that_vanished_is_named(tmp_path) -> None:
    with pytest.raises(DamagedFileError, match=r"nowhere: cannot be read"):
        digest.file_digests([tmp_path / "nowhere"])


def test_a_user_without_a_home_has_files_hashed(tmp_path, monkeypatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setattr(digest, "LARGE", 0)
    (tmp_path / "data").write_bytes(b"one")
    assert digest.file_digests([tmp_path / "data"]) == [digest.sha256(tmp_path / "data")]


@pytest.mark.parametrize("name", ["pets", "hub/pets", "absolute"])
def test_without_the_source_the_cache_is_of_the_very_name(tmp_path, parquet, name: str) -> None:
    name = str(tmp_path / "hub/pets") if name == "absolute" else name
    root = tmp_path / "hub" if name == "pets" else tmp_path
    path = parquet(tmp_path / "hub/pets-train.parquet")
    first = load(name, root, "train", 16, cache=tmp_path / "cache")
    path.unlink()
    assert load(name, root, "train", 16, cache=tmp_path / "cache").digest == first.digest
    for other in {"pets", "hub/pets", "wrong/pets", "/no/such/pets"} - {name}:
        with pytest.raises(ConfigError, match="no images named"):
            load(other, root, "train", 16, cache=tmp_path / "cache")
