"""The validate stage finds what it is there to find."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from datasets.deepnets import generate_split, open_split
from datasets.deepnets.generation.workers import OnThisMachine
from datasets.deepnets.graphs.builder import build_structures
from datasets.deepnets.graphs.packing import pack
from datasets.deepnets.space.rules import PUBLISHED
from datasets.deepnets.store.pack import GraphPack
from datasets.deepnets.store.writer import Block, write_split
from datasets.deepnets.validation import checks
from datasets.deepnets.validation.config import ValidateConfig
from datasets.deepnets.validation.report import as_json
from datasets.deepnets.validation.statistics import (
    PUBLISHED_STATISTICS,
    MeanStd,
    disagreements,
    split_statistics,
)
from datasets.deepnets.validation.validate import validate_splits
from ghn.errors import ConfigError
from ghn.graph import Primitive


def test_generated_splits_are_valid(store):
    asked = []

    def workers(split):
        asked.append(split)
        return OnThisMachine()

    report = validate_splits(store, ValidateConfig(sample=40, block=64), map_blocks=workers)
    assert asked == list(report.statistics)  # each split's bar bears its name
    assert not report.failures, [vars(check) for check in report.failures]
    names = {check.check for check in report.checks}
    assert {
        "connected",
        "topological_order",
        "one_input",
        "primitive_range",
        "shape_consistency",
    } <= names
    assert {
        "parameter_cap",
        "parameter_counts",
        "drawing_rules",
        "duplicates",
        "disjoint_from_test",
    } <= names
    assert {"file_checksums", "graph_checksums", "hashes", "statistics"} <= names
    assert as_json(report)["statistics"]["test"]["published"]["nodes"] == {
        "mean": 185.5,
        "std": 91.2,
    }


@pytest.fixture
def graphs(store) -> tuple[GraphPack, np.ndarray]:
    split = open_split(store, "test")
    structures = build_structures(split[i] for i in range(6))
    return pack(structures)[0], structures.shape


def changed(pack_: GraphPack, field: str, position: int, value: int) -> GraphPack:
    array = getattr(pack_, field).copy()
    array[position] = value
    return dataclasses.replace(pack_, **{field: array})


def test_each_check_names_the_broken_graph(graphs):
    sound, _ = graphs
    start, edge = int(sound.n_nodes[:2].sum()), int(sound.n_edges[:2].sum())
    last = int(sound.n_nodes[:3].sum()) - 1
    third = [False, False, True, False, False, False]
    broken = {
        checks.primitive_range: changed(sound, "primitive", start + 3, 15),
        checks.one_input: changed(sound, "primitive", start + 3, Primitive.input),
        checks.topological_order: changed(sound, "back", edge + 2, 0),
    }
    for check, bad in broken.items():
        assert check(checks.Nodes(sound)).tolist() == [False] * 6
        assert check(checks.Nodes(bad)).tolist() == third
    assert checks.edge_count(changed(sound, "in_degree", last, 2)).tolist() == third
    # The last node reads the input instead of the one before it, which then leads nowhere.
    loose = changed(sound, "back", int(sound.n_edges[:3].sum()) - 1, int(sound.n_nodes[2]) - 1)
    assert checks.connected(checks.Nodes(sound)).tolist() == [False] * 6
    assert checks.connected(checks.Nodes(loose)).tolist() == third


def test_wrong_shapes_are_found(graphs, store):
    sound, shape = graphs
    exact = ~open_split(store, "test").table().has("none", "cse")[:6]
    graph = int(np.flatnonzero(exact)[0])
    nodes = checks.Nodes(sound)
    assert not checks.shape_consistency(nodes, shape, exact).any()
    dense = (nodes.graph == graph) & (shape[:, 1] > 4) & (shape[:, 2] > 0)
    for node in np.flatnonzero(dense)[:4]:
        bad = shape.copy()
        bad[node, 1] += 1
        assert np.flatnonzero(checks.shape_consistency(nodes, bad, exact)).tolist() == [graph]


def test_rules_and_caps_are_checked(store):
    split = open_split(store, "test")
    table = split.table()
    assert not checks.drawing_rules(table, PUBLISHED["test"]).any()
    for field, value in (
        ("n_cells", 19),
        ("steps", 5),
        ("ks", 4),
        ("glob_avg", False),
        ("fc_layers", 3),
    ):
        column = getattr(table, field).copy()
        row = int(np.flatnonzero(table.has("msa"))[0])
        column[row] = value
        assert checks.drawing_rules(
            dataclasses.replace(table, **{field: column}), PUBLISHED["test"]
        )[row], field
    assert checks.parameter_cap(
        split.n_params, PUBLISHED["test"].model_copy(update={"max_parameters": 1000})
    ).all()
    assert checks.parameter_counts(table, split.n_params + np.array([[1, 0]])).all()


def test_training_architectures_that_are_evaluated_are_listed(store, tmp_path, small):
    """A train split that contains two test architectures, written past the generator."""
    for name in ("train", "test"):
        generate_split(tmp_path, name, small)
    train, test = (open_split(tmp_path, name) for name in ("train", "test"))
    code = train.code[:20].copy()
    code[[4, 9]] = test.code[[1, 2]]
    structures = build_structures(
        test[1] if i == 4 else test[2] if i == 9 else train[i] for i in range(20)
    )
    graphs, hashes = pack(structures)
    n_params = train.n_params[:20].copy()
    n_params[[4, 9]] = test.n_params[[1, 2]]
    header = train.header.model_copy(update={"n_graphs": 20})
    write_split(tmp_path, header, [Block(code, graphs, hashes, n_params, graphs.checksums(code))])
    report = validate_splits(tmp_path, ValidateConfig(sample=20))
    check = next(c for c in report.checks if c.check == "disjoint_from_test")
    assert check.failed == 2
    assert check.examples == [
        "deepnets1m/train/4 = deepnets1m/test/1",
        "deepnets1m/train/9 = deepnets1m/test/2",
    ]
    assert "ghn generate --split train" in check.note


def test_duplicates_beyond_what_is_tolerated_fail(store, tmp_path):
    test = open_split(store, "test")
    code = np.repeat(test.code[:2], 3, axis=0)
    structures = build_structures(test[i // 3] for i in range(6))
    graphs, hashes = pack(structures)
    header = test.header.model_copy(update={"n_graphs": 6})
    n_params = np.repeat(test.n_params[:2], 3, axis=0)
    write_split(tmp_path, header, [Block(code, graphs, hashes, n_params, graphs.checksums(code))])
    check = next(
        c
        for c in validate_splits(tmp_path, ValidateConfig(sample=2)).checks
        if c.check == "duplicates"
    )
    assert check.failed == 4
    assert check.examples[0] == "deepnets1m/test/1 = deepnets1m/test/0"


def test_validating_nothing_is_an_error(tmp_path):
    for directory in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ConfigError, match="holds no split"):
            validate_splits(directory)
    with pytest.raises(ValueError, match="at least 1 item"):
        ValidateConfig(splits=())
    with pytest.raises(ConfigError, match=r"test\.h5 does not exist"):
        validate_splits(tmp_path, ValidateConfig(splits=("test",)))


def test_left_out_products_count_in_the_mean_number_of_nodes(store):
    statistics = split_statistics(open_split(store, "test"), sample=40)
    assert statistics.products.mean > 0
    published = PUBLISHED_STATISTICS["train"]
    ours = dataclasses.replace(published, graphs=10**6, nodes=MeanStd(182.0, 90.0))
    assert len(disagreements("train", ours)) == 1
    assert disagreements("train", dataclasses.replace(ours, products=MeanStd(1.1, 2.0))) == []


def test_statistics_are_held_against_the_published_ones():
    published = PUBLISHED_STATISTICS["train"]
    ours = dataclasses.replace(published, graphs=10_000, sampled=1000)
    assert disagreements("train", ours) == []
    for field, value in (("nodes", 215.0), ("degree", 2.45), ("path", 15.6)):
        off = dataclasses.replace(ours, **{field: MeanStd(value, getattr(ours, field).std)})
        assert len(disagreements("train", off)) == 1
        assert field in disagreements("train", off)[0]
