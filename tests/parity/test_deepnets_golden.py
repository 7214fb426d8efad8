"""Graphs built from arguments alone, against the reference's graphs of 220 architectures."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from datasets.deepnets import Architecture, Scaling, build_graph
from datasets.deepnets.space.parameters import count_parameters
from datasets.deepnets.space.table import ArchitectureTable
from ghn.graph import Graph, Primitive
from ghn.graph.graph import canonical_hashes

pytestmark = pytest.mark.golden


@cache
def records(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "deepnets_a.jsonl").read_text().splitlines()]


def golden_graph(record: dict) -> Graph:
    shape = np.zeros((len(record["primitive"]), 4), dtype=np.int32)
    for node, sizes in enumerate(record["shape"]):
        shape[node, : len(sizes or ())] = sizes or ()
    primitive = np.array([Primitive[name] for name in record["primitive"]], dtype=np.uint8)
    return Graph(primitive, np.array(record["edges"], dtype=np.int32), shape, record["param"])


def hashes(graphs: list[Graph]) -> np.ndarray:
    sizes = np.array([graph.n_nodes for graph in graphs])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    labels = [
        np.concatenate([g.primitive[:, None].astype(np.int32), g.shape], axis=1) for g in graphs
    ]
    edges = [g.edges + start for g, start in zip(graphs, starts, strict=True)]
    return canonical_hashes(np.concatenate(labels), np.concatenate(edges), sizes)


def test_graphs_are_those_of_the_reference(golden_root):
    ours = [build_graph(Architecture.from_dict(record["args"])) for record in records(golden_root)]
    theirs = [golden_graph(record) for record in records(golden_root)]
    for index, (graph, golden, record) in enumerate(
        zip(ours, theirs, records(golden_root), strict=True)
    ):
        graph.validate()
        nodes = [
            Counter(zip(g.primitive.tolist(), g.param, map(tuple, g.shape.tolist()), strict=True))
            for g in (graph, golden)
        ]
        assert nodes[0] == nodes[1], index
        assert int(graph.distance.astype(np.int64).sum()) == record["dist_sum"], index
    assert (hashes(ours) == hashes(theirs)).all()


@pytest.mark.parametrize("start", range(4))
def test_graphs_are_isomorphic_with_names(golden_root, start):
    """Not by hash but by a search for the mapping, on every eleventh architecture."""
    for record in records(golden_root)[start::44]:
        graphs = [build_graph(Architecture.from_dict(record["args"])), golden_graph(record)]
        networks = []
        for graph in graphs:
            network = nx.DiGraph(graph.edges.tolist())
            for node in range(graph.n_nodes):
                network.add_node(
                    node, label=(graph.primitive[node], graph.param[node], tuple(graph.shape[node]))
                )
            networks.append(network)
        assert nx.vf2pp_is_isomorphic(*networks, node_label="label")


def test_parameter_counts_are_of_the_whole_module(golden_root):
    table = ArchitectureTable.from_architectures(
        [Architecture.from_dict(r["args"]) for r in records(golden_root)]
    )
    for name, image_size in (("cifar10", 32), ("imagenet", 224)):
        counts = count_parameters(table, Scaling(image_size=image_size))
        assert counts.tolist() == [record["n_params"][name] for record in records(golden_root)]


def test_arguments_survive_json_and_bytes(golden_root):
    for record in records(golden_root):
        architecture = Architecture.from_dict(record["args"])
        assert architecture.to_dict() == record["args"]
        assert Architecture.from_json(json.dumps(record)) == architecture
