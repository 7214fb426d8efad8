"""The low-rank decoder: sizes of the LoGAH paper, what it computes, and that it is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ghn.errors import ConfigError
from ghn.graph import Graph, Primitive
from ghn.models import GHN, GHNConfig
from ghn.models.batch import GraphBatch
from ghn.models.decoding.costs import CPU
from ghn.models.decoding.low_rank import unused

FIELDS = {"decoder": "low-rank", "rank": 5, "factor_length": 150}

PUBLISHED = {
    "logah-t": (32, 3, 64, 8, 2.5),
    "logah-s": (90, 5, 128, 16, 21.4),
    "logah-b": (128, 5, 256, 16, 78.2),
    "logah-l": (256, 12, 256, 16, 289.4),
}
"""arXiv 2405.16287, table 1, with K = 2048 * 16: rank r, layers L, width d, heads H and millions of
parameters.
"""


def published_count(rank: int, layers: int, width: int, heads: int) -> int:
    """Parameters of the published code: those of GHN-3 of this size without its decoders, which
    equal released checkpoints, and the layers of the low-rank decoder one by one.
    """
    ghn = GHN.empty(GHNConfig(hidden=width, layers=layers, heads=heads))
    decoders = [*ghn.tensors.parameters(), *ghn.vectors.parameters()]
    others = sum(p.numel() for p in ghn.parameters()) - sum(p.numel() for p in decoders)
    linear = lambda inputs, outputs: inputs * outputs + outputs  # noqa: E731
    mlp = [(width, 4 * width), (4 * width, 8 * width), (8 * width, 2 * rank * rank)]
    after = [(rank, rank), (rank, 2048 * 16), (1, 1), (1, 1)]  # l1, l2 and two placeholders
    return others + sum(linear(*sizes) for sizes in mlp + after)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name: str) -> None:
    *sizes, millions = PUBLISHED[name]
    config = GHNConfig.variant(name)
    assert [config.rank, config.layers, config.hidden, config.heads] == sizes
    assert config.factor_length == 2048 * 16
    count = sum(p.numel() for p in GHN.empty(config).parameters())
    assert round(count / 1e6, 1) == millions
    assert count + unused(config.rank) == published_count(*sizes)


def decode_in_full(ghn: GHN, h_D: Tensor) -> tuple[Tensor, Tensor]:
    """Both factors of a node, whole: (L, R) each."""
    decoder = ghn.tensors
    r, length = decoder.rank, decoder.length
    hidden = F.relu(decoder.hidden(F.relu(decoder.spread(h_D))))
    core = F.relu(decoder.core(hidden).view(2 * r, r))
    first, second = decoder.block(core).view(2 * length, r).split(length)
    return first, second


def test_slices_equal_the_whole(graphs: list[Graph], make_ghn: Callable[..., GHN]) -> None:
    ghn = make_ghn(**FIELDS).double()
    prediction = ghn(GraphBatch.from_graphs(graphs))
    assert not prediction.skipped
    wide = 0
    for b, graph in enumerate(graphs):
        for node, name in enumerate(graph.param):
            shape = graph.param_shape(node)
            position = graph.primitive[node] == Primitive.pos_enc
            if not name or (position and len(shape) == 3):
                continue
            found = prediction.parameters[b][name]
            a, b_ = decode_in_full(ghn, prediction.embeddings_BND[b, node])
            if len(shape) == 1:
                n = min(shape[0], 75)
                vectors = (a @ b_[:1].T)[: 2 * n].view(2, n)
                expected = (
                    torch.tanh(0.2 * vectors[1])
                    if graph.primitive[node] == Primitive.bias
                    else 2 * torch.sigmoid(vectors[0] / 2)
                )
                torch.testing.assert_close(found[:n], expected)
                continue
            o, i, y, x = (*shape, 1, 1)[:4]
            rows, columns = min(o, 150 // y), min(i, 150 // x)
            wide += rows == o and columns == i
            w = (a[: rows * y] @ b_[: columns * x].T).view(rows, y, columns, x).transpose(1, 2)
            if not position:
                no_relu = len(shape) > 2 and (shape[1] == 1 or y < x)
                w = w * ((1 if no_relu else 2) / (i * y * x)) ** 0.5
            found = found.reshape(o, i, y, x)[:rows, :columns]
            torch.testing.assert_close(found, w)
    assert wide > 10


@pytest.mark.parametrize("chunk", [2**24, 5000, 1])
def test_writing_equals_decoding(
    graphs: list[Graph],
    make_ghn: Callable[..., GHN],
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ghn.models.decoding.costs.CPU", replace(CPU, chunk_bytes=chunk))
    ghn = make_ghn(**FIELDS)
    expected = ghn(GraphBatch.from_graphs(graphs)).parameters
    targets = [{name: torch.zeros_like(p) for name, p in of.items()} for of in expected]
    ghn.write(graphs, lambda graph, name: targets[graph][name])
    for target, parameters in zip(targets, expected, strict=True):
        for name in parameters:
            torch.testing.assert_close(target[name], parameters[name], atol=1e-5, rtol=1e-4)


def test_wide_layers_are_not_tiled(make_ghn: Callable[..., GHN]) -> None:
    """Rows of a wide layer differ, where a tiled decoder repeats them."""
    model = torch.nn.Sequential(torch.nn.Linear(40, 120), torch.nn.ReLU(), torch.nn.Linear(120, 7))
    for fields, repeated in ((FIELDS, False), ({}, True)):
        ghn = make_ghn(**fields)
        width = ghn.config.decoder_channels
        assert width < 60
        weight = ghn(copy.deepcopy(model))[0].weight
        assert torch.equal(weight[:width], weight[width : 2 * width]) is repeated


def test_all_layers_learn(graphs: list[Graph], make_ghn: Callable[..., GHN]) -> None:
    ghn = make_ghn(**FIELDS)
    ghn(GraphBatch.from_graphs(graphs)).penalty().sum().backward()
    for name, parameter in ghn.tensors.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_copy_decodes_with_its_own_layers(
    graphs: list[Graph], make_ghn: Callable[..., GHN]
) -> None:
    ghn = make_ghn(**FIELDS)
    other = copy.deepcopy(ghn)
    with torch.no_grad():
        other.tensors.block.bias += 1
    batch = GraphBatch.from_graphs(graphs)
    here, there = ghn(batch).parameters[0], other(batch).parameters[0]
    assert all(not torch.equal(here[name], there[name]) for name in here)


def test_fields_of_the_other_decoder_are_refused() -> None:
    with pytest.raises(ConfigError, match="rank is 8, which the tiled decoder does not have"):
        GHNConfig(rank=8)
    assert "rank" not in GHNConfig().to_dict()
    assert GHNConfig.variant("logah-s").to_dict()["rank"] == 90
