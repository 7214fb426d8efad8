"""The published format: import, repairs, export."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest

from datasets.deepnets import open_split
from datasets.deepnets.published.reader import import_published
from datasets.deepnets.published.writer import export_published
from datasets.deepnets.store.files import only_writer_of
from datasets.deepnets.validation.config import ValidateConfig
from datasets.deepnets.validation.validate import validate_splits
from ghn.errors import ConfigError, DamagedFileError, GHNError, UnsupportedFormatError
from ghn.graph import Primitive
from ghn.graph.paths import shortest_paths


@pytest.fixture
def published(store, tmp_path):
    """Our test split in the published format."""
    hdf5, _ = export_published(open_split(store, "test"), tmp_path / "published")
    return hdf5


@pytest.mark.golden
def test_published_sample_is_imported_with_its_flaws_repaired(golden_root, tmp_path):
    split = import_published(golden_root / "published_format_sample.hdf5", tmp_path, "test")
    nets = json.loads((golden_root / "published_format_sample_meta.json").read_text())["test"][
        "nets"
    ]
    assert len(split) == len(nets)
    assert split.header.fixes["rows"] == len(nets)  # no graph's rows agree with its matrix
    for index, net in enumerate(nets):
        graph = split.graph(index)
        graph.validate()
        assert graph.n_nodes == net["num_nodes"]
        assert {**split[index].to_dict()} == {k: net[k] for k in split[index].to_dict()}
        assert split.n_params[index].tolist() == [
            net["num_params"]["cifar10"],
            net["num_params"]["imagenet"],
        ]
    report = validate_splits(tmp_path, ValidateConfig(sample=20))
    assert not [c for c in report.failures if c.check != "statistics"]


def test_export_and_import_give_the_same_graphs(store, published, tmp_path):
    ours, again = open_split(store, "test"), import_published(published, tmp_path, "test")
    assert not again.header.fixes.get("rows")
    for index in range(len(ours)):
        a, b = ours.graph(index), again.graph(index)
        assert ours[index] == again[index]
        # a gate without product loses an edge, as in the GHN-3 loader
        if "cse" not in ours[index].genotype.operations:
            assert a.canonical_hash() == b.canonical_hash()
        assert sorted(a.param) == sorted(b.param)
    exported = export_published(again, tmp_path / "again")[0]
    third = import_published(exported, tmp_path / "third", "test")
    assert all(
        again.graph(i).canonical_hash() == third.graph(i).canonical_hash() for i in range(len(ours))
    )


def test_export_holds_what_the_published_loader_reads(store, published):
    split = open_split(store, "test")
    meta = json.loads(published.with_name(published.stem + "_meta.json").read_text())["test"]
    primitives = {int(k): v for k, v in meta["meta"]["primitives_ext"].items()}
    names = {int(k): v for k, v in meta["meta"]["unique_op_names"].items()}
    with h5py.File(published) as file:
        for index in range(0, 40, 9):
            graph, nodes = split.graph(index), file[f"test/{index}/nodes"][:]
            assert (
                file[f"test/{index}/adj"][:] == shortest_paths(graph.n_nodes, graph.edges, 250)
            ).all()
            assert (np.diff(nodes[:, 1].astype(int)) >= 0).all()
            for primitive, param, (kind, cell, name) in zip(
                graph.primitive, graph.param, nodes.tolist(), strict=True
            ):
                assert primitives[kind].startswith(Primitive(primitive).name)
                assert not param.startswith("cells.") or param.split(".")[1] == str(cell)
                assert names[name]
            assert meta["nets"][index]["num_nodes"] == graph.n_nodes


def with_edge(published, index, change):
    with h5py.File(published, "r+") as file:
        adjacency = file[f"test/{index}/adj"][:]
        adjacency[adjacency > 1] = 0
        change(adjacency)
        file[f"test/{index}/adj"][...] = adjacency


def test_stem_edges_and_extra_inputs_are_repaired(store, published, tmp_path):
    split = open_split(store, "test")
    plain = [
        i
        for i in range(40)
        if not {"cse", "none"} & split[i].genotype.operations and not split[i].is_vit
    ]
    stem = next(i for i in plain if split[i].stem_type == 1 and split[i].preproc)
    extra = next(i for i in plain if i != stem)
    graph = split.graph(stem)
    first, second = (
        max(i for i, p in enumerate(graph.param) if p.startswith(s)) for s in ("stem0", "stem1")
    )

    def wrong_stem(adjacency):
        reader = next(i for i, p in enumerate(graph.param) if p.startswith("cells.1.preprocess0"))
        adjacency[second, reader], adjacency[first, reader] = 0, 1

    def extra_input(adjacency):
        single = [
            j
            for j, p in enumerate(split.graph(extra).param)
            if p.endswith("op.2.weight") and adjacency[:j, j].sum()
        ]
        node = single[-1]
        source = int(np.flatnonzero(adjacency[:, node])[0])
        adjacency[source + 1 : node, node] = 0
        adjacency[node - 1 if node - 1 != source else node, node] = node - 1 != source

    with_edge(published, stem, wrong_stem)
    with_edge(published, extra, extra_input)
    again = import_published(published, tmp_path, "test")
    assert again.header.fixes["stem_edge"] == 1
    for index in (stem, extra):
        assert again.graph(index).canonical_hash() == split.graph(index).canonical_hash()


def test_what_is_wrong_is_named(store, published, tmp_path, capsys):
    meta = published.with_name(published.stem + "_meta.json")
    with pytest.raises(ConfigError, match="no split 'deep'; it has test"):
        import_published(published, tmp_path, "deep")
    with pytest.raises(ConfigError, match="does not exist"):
        import_published(tmp_path / "none.hdf5", tmp_path, "test", meta)
    with_edge(published, 5, lambda adjacency: adjacency.__setitem__((slice(None), 9), 0))
    with pytest.raises(
        DamagedFileError, match=r"graph test/5 is not the graph that its arguments describe"
    ):
        import_published(published, tmp_path, "test")
    with h5py.File(published, "r+") as file:
        del file["test/3/adj"]
    with pytest.raises(DamagedFileError, match=r"graph test/3 cannot be read"):
        import_published(published, tmp_path, "test")
    with h5py.File(published, "r+") as file:
        file.move("test", "other")
    with pytest.raises(UnsupportedFormatError, match="no group 'test'; it has other"):
        import_published(published, tmp_path, "test")
    shutil.copy(meta, published)
    with pytest.raises(DamagedFileError, match="not a whole HDF5 file"):
        import_published(published, tmp_path, "test")
    meta.write_text("{")
    with pytest.raises(DamagedFileError, match="meta data"):
        import_published(published, tmp_path, "test")
    assert not list(tmp_path.glob("*.h5"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda its: its.update(nets=[]),
        lambda its: its.update(nets=None),
        lambda its: its.update(nets={"0": its["nets"][0]}),
        lambda its: its["nets"].__setitem__(7, None),
        lambda its: its["nets"][7].pop("genotype"),
        lambda its: its["nets"][7].update(genotype=None),
        lambda its: its["nets"][7].pop("num_params"),
        lambda its: its["nets"][7]["num_params"].pop("imagenet"),
    ],
)
def test_damaged_meta_data_are_named(published, tmp_path, damage):
    meta = published.with_name(published.stem + "_meta.json")
    content = json.loads(meta.read_text())
    damage(content["test"])
    meta.write_text(json.dumps(content))
    with pytest.raises(DamagedFileError, match=r"_meta\.json: not the meta data of a published"):
        import_published(published, tmp_path, "test")


def test_a_damaged_directory_of_groups_is_named(published, tmp_path, monkeypatch):
    def iterate(self):
        raise RuntimeError("incorrect B-tree node type")

    monkeypatch.setattr(h5py.File, "__iter__", iterate)
    with pytest.raises(DamagedFileError, match=r"published/.*incorrect B-tree node type"):
        import_published(published, tmp_path, "test")


def test_a_split_has_one_writer(published, tmp_path):
    with only_writer_of(tmp_path, "test"), pytest.raises(GHNError, match="another process is"):
        import_published(published, tmp_path, "test")
    assert len(import_published(published, tmp_path, "test"))
