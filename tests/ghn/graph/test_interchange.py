"""Graphs go out and come back the same, and what is wrong is named."""

from __future__ import annotations

import json
from typing import Any

import networkx as nx
import numpy as np
import pydot
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghn.errors import InvalidGraphError
from ghn.graph import Graph, Primitive, from_json_dict, from_networkx, to_dot
from ghn.graph.describe import describe


@st.composite
def graphs(draw: Any) -> Graph:
    """Any graph that is valid."""
    n = draw(st.integers(1, 12))
    kinds = [p for p in Primitive if p is not Primitive.input]
    primitive = [Primitive.input, *(draw(st.sampled_from(kinds)) for _ in range(n - 1))]
    shapes = [draw(st.lists(st.integers(1, 9000), max_size=4)) for _ in range(n)]
    shape = np.zeros((n, 4), dtype=np.int32)
    for node, sizes in enumerate(shapes):
        shape[node, : len(sizes)] = sizes
    pairs = [(i, j) for j in range(n) for i in range(j)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    names = draw(st.lists(st.text(max_size=8), min_size=n, max_size=n))
    return Graph(
        np.array(primitive, dtype=np.uint8),
        np.array(edges, dtype=np.int32).reshape(-1, 2),
        shape,
        tuple(names),
        draw(st.text(max_size=8)),
    )


def assert_same(a: Graph, b: Graph, *, in_order: bool = True) -> None:
    assert a.primitive.tolist() == b.primitive.tolist()
    assert a.shape.tolist() == b.shape.tolist()
    assert tuple(a.param) == tuple(b.param)
    edges = [graph.edges.tolist() for graph in (a, b)]
    assert edges[0] == edges[1] if in_order else sorted(edges[0]) == sorted(edges[1])
    assert a.name == b.name


@given(graphs())
def test_json_round_trip(graph: Graph) -> None:
    text = json.dumps(graph.to_json_dict())
    assert_same(from_json_dict(json.loads(text), graph.name), graph)


@given(graphs(), st.booleans())
def test_networkx_round_trip(graph: Graph, virtual: bool) -> None:
    assert_same(from_networkx(graph.to_networkx(virtual)), graph, in_order=False)


@given(graphs(), st.randoms(use_true_random=False))
def test_networkx_nodes_may_come_in_any_order(graph: Graph, random: Any) -> None:
    given_ = graph.to_networkx()
    order = list(given_)
    random.shuffle(order)
    shuffled = nx.DiGraph(name=graph.name)
    shuffled.add_nodes_from((f"node {node}", given_.nodes[node]) for node in order)
    shuffled.add_edges_from((f"node {u}", f"node {v}") for u, v in given_.edges)
    reachable = all(nx.has_path(given_, 0, node) for node in given_)
    if reachable:
        assert from_networkx(shuffled).canonical_hash() == graph.canonical_hash()


@given(graphs())
def test_dot_has_every_node_and_edge(graph: Graph) -> None:
    lines = to_dot(graph).split("\n")
    assert sum(" -> " in line and "label" not in line for line in lines) == len(graph.edges)
    assert sum(line.startswith("  n") and "label=" in line for line in lines) == graph.n_nodes


def test_dot_is_read_by_others(small: Graph) -> None:
    (parsed,) = pydot.graph_from_dot_data(to_dot(small))
    assert len(parsed.get_edges()) == len(small.edges)


@pytest.fixture
def small() -> Graph:
    return from_json_dict(
        {
            "primitive": ["input", "conv", "bias"],
            "param": ["", 'a "quoted".weight', "a.bias"],
            "shape": [None, [4, 3], [4]],
            "edges": [[0, 1], [1, 2]],
        }
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("primitive", ["input", "cnv", "bias"], "node 1 has primitive 'cnv'; use one of max_pool"),
        ("primitive", ["input", "conv"], "one entry per node"),
        ("param", ["", None, "b"], "node 1 has param None"),
        ("shape", [None, [4, 0], [4]], "node 1 has shape"),
        ("shape", [None, [4, 3, 1, 1, 1], [4]], "node 1 has shape"),
        ("shape", [None, [4.0], [4]], "node 1 has shape"),
        ("edges", [[0, 1, 2]], "is no edge"),
        ("edges", [[0, 3]], "outside 0..2"),
        ("edges", [[2, 1]], "topological order"),
        ("edges", "01", "edges is a str"),
        ("edges", [[0, 1], [1, 2], [0, 2], [1, 2]], r"edge \[1, 2\] is there more than once"),
        ("columns", {"a.bias": 5}, "columns of 'a.bias' are no channels"),
        ("columns", {"a.bias": None}, "columns of 'a.bias' are no channels"),
        ("columns", {"a.bias": "0123"}, "columns of 'a.bias' are no channels"),
    ],
)
def test_what_is_wrong_is_named(small: Graph, field: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidGraphError, match=message):
        from_json_dict(small.to_json_dict() | {field: value})


def test_columns_of_a_node_of_networkx_are_named(small: Graph) -> None:
    network = small.to_networkx()
    network.nodes[1]["columns"] = 5
    with pytest.raises(InvalidGraphError, match="are no channels, from 0"):
        from_networkx(network)


def test_a_graph_of_one_node_has_statistics() -> None:
    alone = from_json_dict({"primitive": ["input"], "param": [""], "shape": [None], "edges": []})
    assert alone.statistics() == {"nodes": 1.0, "degree": 0.0, "path": 0.0}
    assert "1 nodes, 0 edges" in describe(alone)


def test_missing_fields_and_cycles_are_named(small: Graph) -> None:
    with pytest.raises(InvalidGraphError, match="it must have primitive, param, shape, edges"):
        from_json_dict({"primitive": []})
    cycle = small.to_networkx()
    cycle.add_edge(2, 1, distance=1)
    with pytest.raises(InvalidGraphError, match="cycle"):
        from_networkx(cycle)


def test_an_undirected_graph_of_networkx_is_refused(small: Graph) -> None:
    with pytest.raises(InvalidGraphError, match="its edges have no direction; give a DiGraph"):
        from_networkx(small.to_networkx().to_undirected())


def test_a_graph_in_parts_is_described() -> None:
    parts = {"primitive": ["input", "conv", "pos_enc"], "param": ["", "w", "p"]}
    parts |= {"shape": [None, [8, 3], [4, 8]], "edges": [[0, 1]]}
    assert "3 nodes, 1 edges, average degree 0.67, not connected" in describe(from_json_dict(parts))
