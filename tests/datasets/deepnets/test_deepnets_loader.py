"""Meta-batches for training."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.func import functional_call

from datasets.deepnets import (
    Architecture,
    Genotype,
    MetaBatchConfig,
    MetaBatches,
    meta_batches,
    open_split,
)
from ghn.errors import ConfigError


@pytest.fixture(scope="module")
def train(store):
    return open_split(store, "train")


def same(a, b) -> bool:
    graphs = a.graphs, b.graphs
    return a.index == b.index and all(
        torch.equal(getattr(graphs[0], name), getattr(graphs[1], name))
        for name in ("primitive_BN", "shape_BN4", "distance_BNN", "mask_BN")
    )


def test_a_step_is_the_same_from_any_start_with_any_number_of_workers(train):
    dataset = MetaBatches(train, 4, seed=3)
    straight = list(itertools.islice(meta_batches(dataset), 6))
    resumed = list(itertools.islice(meta_batches(MetaBatches(train, 4, seed=3), start=3), 3))
    parallel = list(itertools.islice(meta_batches(MetaBatches(train, 4, seed=3), workers=2), 6))
    assert all(same(a, b) for a, b in zip(straight[3:], resumed, strict=True))
    assert all(same(a, b) for a, b in zip(straight, parallel, strict=True))
    assert not same(MetaBatches(train, 4, seed=4)[0], straight[0])


def test_epochs_are_shuffled_differently_and_cover_the_split(train):
    dataset = MetaBatches(train, 5, seed=1, config=MetaBatchConfig(max_nodes=10**6))
    per_epoch = len(train) // 5
    epochs = [
        [i for s in range(per_epoch) for i in dataset.indices(e * per_epoch + s)] for e in range(3)
    ]
    assert all(sorted(epoch) == list(range(len(train))) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_window_cuts_meta_batches_of_one_size(train):
    def cut(window: int) -> list[list[int]]:
        config = MetaBatchConfig(max_nodes=10**6, window=window)
        dataset = MetaBatches(train, 4, seed=1, config=config)
        return [dataset.indices(step).tolist() for step in range(2 * (len(train) // 4))]

    def spread(batches: list[list[int]]) -> float:
        return float(np.mean([np.ptp(train.n_nodes[batch].astype(int)) for batch in batches]))

    alike, mixed, epoch = cut(8), cut(1), len(train) // 4
    assert spread(alike) < spread(mixed) / 2
    for batches in (alike[:epoch], alike[epoch:]):
        assert sorted(itertools.chain(*batches)) == list(range(epoch * 4))
    assert sorted(map(sorted, alike[:epoch])) != sorted(map(sorted, alike[epoch:]))
    sizes = [int(train.n_nodes[batch].sum()) for batch in alike]
    assert sizes != sorted(sizes)  # they come in random order


def test_meta_batches_stay_within_the_node_budget(train):
    budget = int(8 * train.n_nodes.mean())  # about half of all meta-batches exceed it

    def nodes(max_nodes: int) -> list[int]:
        dataset = MetaBatches(train, 8, seed=1, config=MetaBatchConfig(max_nodes=max_nodes))
        return [int(train.n_nodes[dataset.indices(step)].sum()) for step in range(40)]

    assert max(nodes(budget)) <= budget < max(nodes(10 * budget))
    assert MetaBatches(train, 16).budget == 4400
    assert MetaBatches(train, 4).budget == 2200
    assert MetaBatches(train, 1).budget is None


def test_ranks_share_a_meta_batch(train):
    whole = MetaBatches(train, 8, seed=1)[2]
    shares = [MetaBatches(train, 8, seed=1, rank=rank, world=4)[2] for rank in range(4)]
    assert sorted(i for share in shares for i in share.index) == sorted(whole.index)
    nodes = [sum(share.graphs.n_nodes) for share in shares]
    assert max(nodes) < 2 * min(nodes)
    sizes = {n: w.scaling for n, w in zip(whole.index, whole.networks, strict=True)}
    assert all(
        sizes[n] == w.scaling for s in shares for n, w in zip(s.index, s.networks, strict=True)
    )


def test_networks_fit_their_graphs(train):
    batch = MetaBatches(train, 4, num_classes=7, seed=2)[0]
    for graph, network in zip(batch.graphs.graphs, batch.networks, strict=True):
        shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
        assert all(
            shapes[name] == graph.param_shape(node) for node, name in enumerate(graph.param) if name
        )
        parameters = {name: 0.05 * torch.randn(shape) for name, shape in shapes.items()}
        assert functional_call(network, parameters, (torch.randn(2, 3, 32, 32),)).shape == (2, 7)


def architecture(**arguments) -> Architecture:
    cell = (("conv_3x3", 0), ("skip_connect", 1))
    return Architecture(Genotype(cell, (2,), cell, (2,)), **{"n_cells": 5, **arguments})


@pytest.mark.parametrize(
    ("arguments", "n_params", "wider", "widest"),
    [
        ({}, 100_000, True, 128),
        ({}, 300_000, True, 96),
        ({}, 500_000, True, 80),
        ({}, 2_100_000, True, 32),
        ({"n_cells": 9}, 100_000, True, 96),
        ({"n_cells": 11}, 100_000, True, 80),
        ({"n_cells": 15}, 100_000, True, 32),
        ({"glob_avg": False}, 100_000, True, 32),
        ({}, 300_000, False, 64),
        ({}, 500_000, False, 48),
        ({}, 900_000, False, 32),
        ({"n_cells": 13}, 100_000, False, 32),
    ],
)
def test_large_networks_stay_narrow(train, arguments, n_params, wider, widest):
    size = 224 if wider else 32
    dataset = MetaBatches(train, 4, image_size=size, config=MetaBatchConfig(wider_nets=wider))
    draws = np.random.default_rng(0).random((400, 3))
    scalings = [dataset._scaling(architecture(**arguments), n_params, *draw) for draw in draws]
    assert {s.channels for s in scalings} == set(range(32, widest + 1, 16))
    narrow_only = widest < 128
    assert max(s.fc_dim for s in scalings if s.channels <= 64) == (256 if narrow_only else 512)
    assert max((s.fc_dim for s in scalings if s.channels > 64), default=256) == 256


def test_small_networks_sometimes_get_a_stem_of_stride_two(train):
    dataset = MetaBatches(train, 4, image_size=224)
    draws = np.random.default_rng(0).random((200, 3))
    pooled = [
        dataset._scaling(architecture(stem_pool=True), 100_000, *draw).imagenet_stride
        for draw in draws
    ]
    plain = [dataset._scaling(architecture(), 100_000, *draw).imagenet_stride for draw in draws]
    assert 0.35 < pooled.count(2) / len(pooled) < 0.65
    assert set(plain) == {4}


def test_small_images_take_the_rule_of_ghn2(train):
    draws = np.random.default_rng(0).random((100, 3))
    scalings = [
        [
            MetaBatches(train, 4, config=MetaBatchConfig(wider_nets=wider))._scaling(
                architecture(), n_params, *draw
            )
            for n_params in (100_000, 300_000, 500_000, 900_000)
            for draw in draws
        ]
        for wider in (True, False)
    ]
    assert scalings[0] == scalings[1]


@pytest.mark.parametrize("channels", [(16, 32), (32, 64)])
def test_few_widths_give_larger_networks_no_wider_classifier(train, channels):
    dataset = MetaBatches(train, 4, config=MetaBatchConfig(channels=channels))
    draws = np.random.default_rng(0).random((200, 3))
    for n_params, widest in ((100_000, 512), (300_000, 256), (500_000, 256)):
        found = [dataset._scaling(architecture(), n_params, *draw).fc_dim for draw in draws]
        assert max(found) == widest, n_params


def test_costly_networks_have_no_part_if_so_asked(train):
    from datasets.deepnets.space.cost import multiply_adds
    from datasets.deepnets.space.scaling import Scaling

    cost = multiply_adds(train.table(), Scaling(32, image_size=16))
    bound = float(np.median(cost))
    dataset = MetaBatches(train, 4, image_size=16, max_cost=bound)
    drawn = np.concatenate([dataset.indices(step) for step in range(40)])
    assert cost[drawn].max() <= bound
    assert len(set(drawn.tolist())) > 0.4 * len(train)
    with pytest.raises(ConfigError, match="of at most 1 multiply-adds"):
        MetaBatches(train, 4, max_cost=1.0)


@pytest.mark.parametrize("norm", ["always", "never"])
def test_networks_with_norms_or_without_have_no_part_if_so_asked(train, norm):
    dataset = MetaBatches(train, 2, norm=norm)
    drawn = np.concatenate([dataset.indices(step) for step in range(100)])
    assert set(train.table().norm[drawn].tolist()) == {norm == "always"}
    assert set(drawn.tolist()) == set(np.flatnonzero(train.table().norm == (norm == "always")))
    with pytest.raises(ConfigError, match=f"batch norms {norm}"):
        MetaBatches(train, 100, norm=norm)


def test_impossible_requests_are_named(train):
    with pytest.raises(ConfigError, match="must divide among 3 processes"):
        MetaBatches(train, 8, world=3)
    with pytest.raises(ConfigError, match="fit split 'train' of 100"):
        MetaBatches(train, 200)
    with pytest.raises(ConfigError, match="raise max_nodes"):
        MetaBatches(train, 8, config=MetaBatchConfig(max_nodes=10))[0]
