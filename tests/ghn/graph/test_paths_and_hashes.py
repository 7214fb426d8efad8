"""Shortest paths and canonical hashes of random directed acyclic graphs."""

from __future__ import annotations

import networkx as nx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ghn.graph import Graph
from ghn.graph.graph import canonical_hashes
from ghn.graph.paths import shortest_paths


@st.composite
def graphs(draw) -> Graph:
    """Chains with some further edges, which is what networks look like, numbered in topological
    order.
    """
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    edges = {
        (int(rng.integers(j)) if rng.random() < 0.3 else j - 1, j)
        for j in range(1, n)
        if rng.random() < 0.95
    }
    for _ in range(draw(st.integers(0, n))):
        if n > 1:
            target = int(rng.integers(1, n))
            edges.add((int(rng.integers(target)), target))
    array = np.array(sorted(edges), dtype=np.int32).reshape(-1, 2)[rng.permutation(len(edges))]
    return Graph(
        rng.integers(0, 15, n).astype(np.uint8),
        array,
        rng.integers(0, 3, (n, 4)).astype(np.int32),
        [""] * n,
    )


@settings(max_examples=100, deadline=None)
@given(graphs(), st.sampled_from([50, 3]))
def test_shortest_paths_are_those_of_networkx(graph, cutoff):
    network = nx.DiGraph(graph.edges.tolist())
    network.add_nodes_from(range(graph.n_nodes))
    expected = np.zeros((graph.n_nodes, graph.n_nodes), dtype=np.uint8)
    for source, lengths in nx.all_pairs_shortest_path_length(network, cutoff=cutoff):
        for target, length in lengths.items():
            expected[source, target] = length
    assert (shortest_paths(graph.n_nodes, graph.edges, cutoff) == expected).all()


def renumbered(graph: Graph, rng: np.random.Generator) -> Graph:
    """The same graph in another topological order."""
    network = nx.DiGraph(graph.edges.tolist())
    network.add_nodes_from(range(graph.n_nodes))
    rank = rng.random(graph.n_nodes)
    order = np.array(
        list(nx.lexicographical_topological_sort(network, key=lambda node: rank[node]))
    )
    position = np.empty_like(order)
    position[order] = np.arange(graph.n_nodes)
    edges = position[graph.edges].astype(np.int32)
    return Graph(graph.primitive[order], edges, graph.shape[order], graph.param)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(0, 2**32 - 1))
def test_hash_depends_on_the_graph_and_not_on_its_order(graph, seed):
    rng = np.random.default_rng(seed)
    assert renumbered(graph, rng).canonical_hash() == graph.canonical_hash()
    node = int(rng.integers(graph.n_nodes))
    primitive = graph.primitive.copy()
    primitive[node] = (primitive[node] + 1) % 15
    assert (
        Graph(primitive, graph.edges, graph.shape, graph.param).canonical_hash()
        != graph.canonical_hash()
    )
    if len(graph.edges) > 1:
        less = Graph(graph.primitive, graph.edges[1:], graph.shape, graph.param)
        assert less.canonical_hash() != graph.canonical_hash()


@settings(max_examples=20, deadline=None)
@given(st.lists(graphs(), min_size=1, max_size=6))
def test_hashes_of_a_batch_are_those_of_its_graphs(batch):
    sizes = [graph.n_nodes for graph in batch]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    label = np.concatenate(
        [np.concatenate([g.primitive[:, None].astype(np.int32), g.shape], axis=1) for g in batch]
    )
    edges = np.concatenate(
        [g.edges + start for g, start in zip(batch, starts, strict=True)]
    ).astype(np.int32)
    hashes = canonical_hashes(label, edges, sizes)
    assert [f"{a:016x}{b:016x}" for a, b in hashes.tolist()] == [
        graph.canonical_hash() for graph in batch
    ]
