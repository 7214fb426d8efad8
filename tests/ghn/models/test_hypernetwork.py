"""The hypernetwork as a module: precision, copies, empty networks, initialisation."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from ghn import GHN, GHNConfig, Graph, GraphBatch, Primitive

KINDS = [
    {},
    {"message_passing": "gated", "window": "corner"},
    {"message_passing": "mlp"},
    {"edge_embedding": "none"},
]


@pytest.mark.parametrize("fields", KINDS)
def test_autocast_rounds_embeddings_but_not_decoders(
    graphs: list[Graph], make_ghn: Callable[..., GHN], fields: dict
) -> None:
    ghn = make_ghn(**fields)
    batch = GraphBatch.from_graphs(graphs)
    exact = ghn(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = ghn(batch)
    for a, b in zip(exact.parameters, rounded.parameters, strict=True):
        for name in a:
            assert b[name].dtype == torch.float32
            assert (a[name] - b[name]).norm() <= 0.1 * a[name].norm() + 1e-3
    (rounded.penalty().sum() + exact.penalty().sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in ghn.parameters())


@pytest.mark.parametrize("fields", KINDS)
def test_every_parameter_gets_a_gradient(
    graphs: list[Graph], make_ghn: Callable[..., GHN], fields: dict
) -> None:
    ghn = make_ghn(**fields)
    ghn(GraphBatch.from_graphs(graphs)).penalty().sum().backward()
    without = {name for name, p in ghn.named_parameters() if p.grad is None}
    assert without == set()


def test_pickled_copies_predict_the_same(graphs: list[Graph], make_ghn: Callable[..., GHN]) -> None:
    ghn = make_ghn()
    batch = GraphBatch.from_graphs(graphs)
    expected, copied = (
        ghn(batch).parameters,
        pickle.loads(pickle.dumps(ghn))(batch).parameters,
    )
    for a, b in zip(expected, copied, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_network_without_parameters(make_ghn: Callable[..., GHN]) -> None:
    graph = Graph(
        np.array([Primitive.input], np.uint8),
        np.zeros((0, 2), np.int32),
        np.zeros((1, 4), np.int32),
        [""],
    )
    for fields in KINDS:
        prediction = make_ghn(**fields)(GraphBatch.from_graphs([graph]))
        assert prediction.parameters == [{}]
        assert prediction.penalty().tolist() == [0.0]
    model = nn.Sequential(nn.ReLU())
    assert make_ghn()(model, graph) is model


def test_initialisation_of_ghn3() -> None:
    """Embeddings of norm about 1, small last layers, an edge embedding of sinusoids."""
    torch.manual_seed(0)
    ghn = GHN(GHNConfig(num_classes=10, decoder_kernel=11))
    assert float(ghn.embedding.primitive.weight.norm(dim=1).mean().detach()) == pytest.approx(
        1, abs=0.1
    )
    assert ghn.tensors.block.weight.abs().max() < 1 / 5 / 512**0.5 + 1e-6
    for layer in (ghn.tensors.block, ghn.tensors.classes, ghn.vectors.out):
        assert (layer.bias == 0).all()
    assert (ghn.message_passing.edge.distance.weight[0] == 0).all()


def test_an_empty_hypernetwork_takes_no_memory() -> None:
    ghn = GHN.empty(GHNConfig.variant("ghn3-xl"))
    assert all(p.is_meta for p in ghn.parameters())
    assert not any(buffer.is_meta for buffer in ghn.buffers())
