"""Graphs built one by one and together, and their names, which are put together when asked for."""

from __future__ import annotations

import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import architectures

from datasets.deepnets.graphs.builder import build_graph, scaled_graphs
from datasets.deepnets.space.architecture import Architecture
from datasets.deepnets.space.scaling import Scaling


@settings(max_examples=20, deadline=None)
@given(st.lists(architectures(), min_size=2, max_size=5), st.sampled_from([32, 224]))
def test_graphs_built_together_are_those_built_alone(
    some: list[Architecture], image_size: int
) -> None:
    names = [str(i) for i in range(len(some))]
    together = scaled_graphs(some, [Scaling(48, image_size=image_size)] * len(some), names)
    for architecture, graph in zip(some, together, strict=True):
        alone = build_graph(architecture, 48, image_size=image_size)
        assert graph.param == alone.param
        assert len(graph.param) == graph.n_nodes
        for name in ("primitive", "edges", "shape", "distance"):
            ours, theirs = getattr(graph, name), getattr(alone, name)
            assert ours.dtype == theirs.dtype
            assert np.array_equal(ours, theirs)


@settings(max_examples=5, deadline=None)
@given(architectures())
def test_names_are_a_sequence_and_travel_as_a_tuple(architecture: Architecture) -> None:
    param = build_graph(architecture).param
    names = tuple(param)
    assert param == names
    assert names == param
    assert param != names[1:]
    assert hash(param) == hash(names)
    assert (param[1], param[-2:], len(param)) == (names[1], names[-2:], len(names))
    again = pickle.loads(pickle.dumps(param))
    assert type(again) is tuple
    assert again == names
