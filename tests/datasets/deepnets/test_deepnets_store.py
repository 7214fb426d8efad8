"""The store: what it returns, and what it says about damaged files."""

from __future__ import annotations

import pickle
import re
import shutil
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets.deepnets import open_split
from datasets.deepnets.space.architecture import Architecture
from datasets.deepnets.space.table import ArchitectureTable
from datasets.deepnets.store.files import digest_path, paths_of
from datasets.deepnets.validation.config import ValidateConfig
from datasets.deepnets.validation.validate import validate_splits
from ghn.errors import ConfigError, DamagedFileError, GHNError, UnsupportedFormatError


@pytest.fixture
def copy(store, tmp_path) -> Path:
    for path in paths_of(store, "test"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_split_gives_architectures_graphs_and_ids(store):
    split = open_split(store, "test")
    assert len(split) == 40
    assert isinstance(split[3], Architecture)
    assert split.identifier(3) == "deepnets1m/test/3"
    graph = split.graph(3, channels=48, num_classes=7)
    graph.validate()
    assert graph.name == "deepnets1m/test/3"
    assert graph.param_shape(graph.n_nodes - 1) == (7,)
    assert graph.n_nodes == split.n_nodes[3]


def test_indices_are_those_of_a_sequence(store):
    split = open_split(store, "test")
    assert split[-1] == split[39]
    assert split.identifier(-40) == "deepnets1m/test/0"
    assert split.graph(-2).name == "deepnets1m/test/38"
    assert (split.stored_edges(-1)[1] == split.stored_edges(39)[1]).all()
    assert split[np.int64(3)] == split[3]
    for index in (40, -41):
        with pytest.raises(IndexError, match=rf"0\.\.39, not {index}"):
            split[index]
    with pytest.raises(TypeError):
        split[1.0]


def test_stored_arrays_are_the_rebuilt_graph(store):
    split = open_split(store, "test")
    for index in range(0, 40, 7):
        graph = split.graph(index)
        primitive, edges, _ = split.stored_edges(index)
        assert (primitive == graph.primitive).all()
        assert (edges == graph.edges).all()


def test_parquet_says_what_the_architectures_are(store):
    split = open_split(store, "test")
    for row, architecture in zip(split.metadata().to_pylist(), split, strict=True):
        genotype = architecture.genotype
        assert tuple(zip(row["normal"], row["normal_inputs"], strict=True)) == genotype.normal
        assert tuple(zip(row["reduce"], row["reduce_inputs"], strict=True)) == genotype.reduce
        assert tuple(row["normal_concat"]) == genotype.normal_concat
        for name in (
            "n_cells",
            "ks",
            "C_mult",
            "preproc",
            "glob_avg",
            "stem_type",
            "stem_pool",
            "fc_layers",
            "fc_dim",
        ):
            assert row[name] == getattr(architecture, name)
        assert row["norm"] == (architecture.norm is not None)
        assert row["hash"].hex() == split.graph(row["index"]).canonical_hash()


def test_bytes_and_columns_are_inverse(store):
    code = open_split(store, "test").code
    table = ArchitectureTable.decode(code)
    assert (table.encode() == code).all()
    again = ArchitectureTable.from_architectures(
        list(open_split(store, "test")), code.shape[1] // 2 - 5
    )
    assert (again.encode() == code).all()


def test_split_survives_pickling_and_holds_no_file_open(store):
    before = {path.resolve() for path in Path("/proc/self/fd").iterdir() if path.exists()}
    split = open_split(store, "test")
    again = pickle.loads(pickle.dumps(split))
    assert again[5] == split[5]
    _ = split.n_nodes, split.n_params, split.graph(1)
    after = {path.resolve() for path in Path("/proc/self/fd").iterdir() if path.exists()}
    assert not {path for path in after - before if path.suffix in (".h5", ".parquet")}


def test_missing_split_says_how_to_make_it(tmp_path):
    with pytest.raises(ConfigError, match="ghn generate --split test"):
        open_split(tmp_path, "test")


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_truncated_file_is_named(copy, which, keep):
    path = paths_of(copy, "test")[which]
    size = path.stat().st_size
    with path.open("rb+") as file:
        file.truncate(int(keep * size) if isinstance(keep, float) else keep)
    with pytest.raises((DamagedFileError, UnsupportedFormatError), match=path.name):
        open_split(copy, "test")


@pytest.mark.parametrize("which", [0, 1])
def test_foreign_file_is_named(copy, which):
    path = paths_of(copy, "test")[which]
    if which:
        pq.write_table(pa.table({"x": [1]}), path)
    else:
        with h5py.File(path, "w") as file:
            file["x"] = 1
    with pytest.raises(UnsupportedFormatError, match=path.name):
        open_split(copy, "test")
    path.write_bytes(b"neither of them" * 1000)
    with pytest.raises(DamagedFileError, match=path.name):
        open_split(copy, "test")


def outcome(directory: Path) -> str:
    """What opening and validating the split says about it."""
    try:
        return " ".join(
            check.check for check in validate_splits(directory, ValidateConfig(sample=2)).failures
        )
    except GHNError as error:
        return str(error)


@pytest.mark.parametrize("which", [0, 1])
def test_flipped_bits_do_not_pass(copy, which):
    """Wherever a bit flips, the split is refused or found invalid, or it still says the same (a
    Parquet file has bytes that nothing depends on, such as the names of its encodings).
    """
    path = paths_of(copy, "test")[which]
    sound, rows = path.read_bytes(), open_split(copy, "test").metadata()
    rng = np.random.default_rng(which)
    caught = 0
    for position in rng.integers(0, len(sound), 12).tolist():
        damaged = bytearray(sound)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        if message := outcome(copy):
            caught += 1
            assert (
                path.name in message or "deepnets1m/test" in message or "file_checksums" in message
            ), position
        else:
            assert which == 1
            assert open_split(copy, "test").metadata().equals(rows), position
    assert caught >= 9


def test_no_flipped_bit_of_the_metadata_passes(copy, store):
    """The footer included, which no checksum of the format covers."""
    shutil.copy(digest_path(store, "test"), copy)
    path = paths_of(copy, "test")[1]
    sound = path.read_bytes()
    split = open_split(copy, "test")
    for position in [*range(0, len(sound), len(sound) // 40), *range(len(sound) - 60, len(sound))]:
        damaged = bytearray(sound)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=re.escape(str(path))):
            open_split(copy, "test")
        with pytest.raises(DamagedFileError, match=re.escape(str(path))):
            split.metadata(["hash"])
    path.write_bytes(sound)
    assert open_split(copy, "test").metadata().equals(split.metadata())


def test_a_digest_of_another_split_is_a_leftover_and_a_broken_one_is_named(copy, store):
    digest = digest_path(copy, "test")
    shutil.copy(digest_path(store, "val"), digest)
    assert len(open_split(copy, "test")) == 40
    digest.write_text("{")
    with pytest.raises(DamagedFileError, match=re.escape(str(digest))):
        open_split(copy, "test")


def test_footers_without_a_digest_are_named_or_the_same(copy):
    """Splits of earlier versions: nothing that the libraries raise comes out."""
    path = paths_of(copy, "test")[1]
    sound = path.read_bytes()
    for position in range(len(sound) - 1500, len(sound), 7):
        damaged = bytearray(sound)
        damaged[position] ^= 128
        path.write_bytes(damaged)
        with suppress(DamagedFileError, UnsupportedFormatError):
            open_split(copy, "test").metadata()


def test_damaged_graph_is_named(copy):
    path = paths_of(copy, "test")[0]
    with h5py.File(path, "r+") as file:
        begin = int(file["n_nodes"][:7].sum())
        file["primitive"][begin + 4] = 14
    split = open_split(copy, "test")
    with pytest.raises(DamagedFileError, match="graph 7 is damaged"):
        split.stored_edges(7)
    report = validate_splits(copy, ValidateConfig(sample=2))
    failed = {check.check: check for check in report.failures}
    assert failed["graph_checksums"].examples == ["deepnets1m/test/7"]
    assert failed["graph_of_architecture"].examples == ["deepnets1m/test/7"]
    assert "file_checksums" in failed
    with pytest.raises(GHNError, match="deepnets1m/test/7"):
        report.raise_if_failed()


def test_newer_format_version_is_refused(copy):
    path = paths_of(copy, "test")[0]
    with h5py.File(path, "r+") as file:
        file.attrs["deepnets"] = str(file.attrs["deepnets"]).replace('"version":1', '"version":2')
    with pytest.raises(
        UnsupportedFormatError, match=r"format version 2; this program reads up to 1"
    ):
        open_split(copy, "test")


def test_files_of_different_runs_are_refused(copy, store):
    shutil.copy(paths_of(store, "val")[1], paths_of(copy, "test")[1])
    with pytest.raises(DamagedFileError, match="do not belong together"):
        open_split(copy, "test")
