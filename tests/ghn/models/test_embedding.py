"""Shapes are quantised as the released embedding tables have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ghn.graph import Graph, Primitive
from ghn.models import GHNConfig
from ghn.models.batch import GraphBatch
from ghn.models.embedding import NodeEmbedding, channel_steps, kernel_steps, nearest_index, sizes

MODULE = NodeEmbedding(GHNConfig())


@pytest.mark.parametrize(("classes", "rows"), [(1000, 392), (10, 392), (64, 391), (20000, 392)])
def test_channel_table_has_the_released_size(classes: int, rows: int) -> None:
    assert len(channel_steps(classes)) + 1 == rows


@pytest.mark.parametrize(("kernel", "rows"), [(16, 11), (11, 9)])
def test_kernel_table_has_the_released_size(kernel: int, rows: int) -> None:
    assert len(kernel_steps(kernel)) + 1 == rows


@settings(deadline=None)
@given(st.integers(1, 9000))
def test_channels_go_to_the_nearest_step(channels: int) -> None:
    steps = channel_steps(1000)
    index = int(MODULE.channel_index[min(channels, len(MODULE.channel_index) - 1)])
    if channels > 8192:
        assert steps[index] == 8192
    elif 4 <= channels < 8:
        assert steps[index] == 8
    else:
        assert abs(steps[index] - channels) == np.abs(steps - channels).min()


def test_ties_go_to_the_lower_step_and_two_counts_as_three() -> None:
    index = nearest_index(np.array([1, 3, 5, 7]), 8)
    assert index[[2, 4, 6, 8, 9]].tolist() == [0, 1, 2, 3, 3]
    module = NodeEmbedding(GHNConfig())
    assert module.kernel_index[2] == module.kernel_index[3]
    assert module.kernel_index[0] == len(kernel_steps(16))


def test_shapes_have_four_sizes() -> None:
    shape = torch.tensor(
        [
            [
                [64, 3, 7, 7],
                [10, 64, 0, 0],
                [64, 0, 0, 0],
                [0, 0, 0, 0],
                [1, 197, 768, 0],
                [6, 4, 3, 0],
            ]
        ]
    )
    primitive = torch.tensor([[4, 4, 11, Primitive.sum, Primitive.pos_enc, 4]])
    assert sizes(shape, primitive)[0].tolist() == [
        [64, 3, 7, 7],
        [10, 64, 1, 1],
        [64, 1, 1, 1],
        [0, 0, 0, 0],
        [1, 768, 14, 14],
        [6, 4, 3, 1],
    ]


def test_degrees_and_distances_enter() -> None:
    edges = np.array([[0, 1], [0, 2], [1, 3], [2, 3]], np.int32)
    graph = Graph(np.array([9, 4, 4, 7], np.uint8), edges, np.zeros((4, 4), np.int32), [""] * 4)
    module = NodeEmbedding(GHNConfig(hidden=8, heads=1))
    plain = NodeEmbedding(GHNConfig(hidden=8, heads=1, centrality=False, input_distance=False))
    plain.load_state_dict(module.state_dict(), strict=False)
    batch = GraphBatch.from_graphs([graph])
    added = module(batch)[0] - plain(batch)[0]
    assert module.in_degree is not None
    assert module.out_degree is not None
    assert module.input_distance is not None
    for node, (degree_in, degree_out, distance) in enumerate(
        [(0, 2, 0), (1, 1, 1), (1, 1, 1), (2, 0, 2)]
    ):
        expected = module.in_degree.weight[degree_in] + module.out_degree.weight[degree_out]
        torch.testing.assert_close(added[node], expected + module.input_distance.weight[distance])
