"""Slices of the decoder are the decoder: everything decoded in full, then cut and tiled, gives the
same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ghn.graph import Graph, Primitive
from ghn.models import GHN
from ghn.models.batch import GraphBatch
from ghn.models.decoding.buckets import buckets
from ghn.models.decoding.costs import CPU, GPU
from ghn.models.decoding.plan import plan
from ghn.models.decoding.sliced import leading, sliced_linear


def decode_in_full(
    ghn: GHN, h_D: Tensor, shape: tuple[int, ...], primitive: int, head: bool
) -> list[Tensor]:
    """The parameter of a node (weight and bias for norms), decoded without any short cut."""
    config, t, v = ghn.config, ghn.tensors, ghn.vectors
    s, m = config.decoder_kernel, config.decoder_channels

    def cut(size: int) -> slice:
        if config.window == "corner":
            return slice(0, min(size, s))
        return slice(max(0, s // 2 - size // 2), min(s, s // 2 + -(-size // 2)))

    def repeat(w: Tensor, target: tuple[int, ...]) -> Tensor:
        return w[np.ix_(*(np.arange(n) % min(n, b) for n, b in zip(target, w.shape, strict=True)))]

    if len(shape) == 1:
        weight, bias = v.out(F.relu(v.hidden(h_D))).view(2, m)
        if head:
            bias = v.classes(F.relu(bias))
        outputs = [bias] if primitive == Primitive.bias else [weight, bias]
        outputs = [repeat(w, shape) for w in outputs]
        if not config.normalize:
            return outputs
        squashed = [torch.tanh(0.2 * outputs[-1])]
        return (
            squashed
            if primitive == Primitive.bias
            else [2 * torch.sigmoid(outputs[0] / 2), *squashed]
        )

    grid = F.relu(t.spatial(h_D)).view(-1, s, s).permute(1, 2, 0)
    block = t.block(F.relu(t.hidden(grid))).view(s, s, m, m).permute(2, 3, 0, 1)
    position = primitive == Primitive.pos_enc
    if position and len(shape) == 3:
        side = int(shape[1] ** 0.5)
        full = (1, shape[2], side, side)
    else:
        full = (*shape, 1, 1)[:4] if len(shape) < 4 else shape
    w = block[:, :, cut(full[2]), cut(full[3])]
    if full[2] > s or full[3] > s:
        w = F.interpolate(w, full[2:], mode="bilinear")
    if head:
        w = t.classes(F.relu(w[:, :, 0, 0].T)).T[:, :, None, None]
    w = repeat(w, full)
    if position:
        if len(shape) == 4:
            return [w]
        w = w.flatten(2).mT  # (1, side * side, C)
        return [F.pad(w, (0, 0, shape[1] - w.shape[1], 0))]
    w = w.reshape(shape)
    if config.normalize:
        no_relu = len(shape) > 2 and (shape[1] == 1 or full[2] < full[3])
        w = w * ((1 if no_relu else 2) / w[0].numel()) ** 0.5
    return [w]


VARIANTS = [
    {},
    {"window": "corner", "decoder_channels": 32},
    {"window": "corner", "normalize": False, "layer_norm": False},
    {"decoder_kernel": 16, "decoder_channels": 12},
]


@pytest.mark.parametrize("fields", VARIANTS)
def test_slices_equal_the_whole(
    graphs: list[Graph], make_ghn: Callable[..., GHN], fields: dict
) -> None:
    ghn = make_ghn(**fields).double()
    batch = GraphBatch.from_graphs(graphs)
    prediction = ghn(batch)
    assert not prediction.skipped
    checked = 0
    for b, graph in enumerate(graphs):
        parameters = prediction.parameters[b]
        for node, name in enumerate(graph.param):
            if not name:
                continue
            shape = graph.param_shape(node)
            h_D = prediction.embeddings_BND[b, node]
            expected = decode_in_full(ghn, h_D, shape, graph.primitive[node], node in graph.head)
            torch.testing.assert_close(parameters[name], expected[0])
            checked += 1
            if len(expected) > 1:
                torch.testing.assert_close(parameters[name.replace("weight", "bias")], expected[1])
                checked += 1
        assert {tuple(p.shape) for n, p in parameters.items() if n == "head.weight"} == {(7, 40)}
    assert checked == sum(map(len, prediction.parameters))


def test_a_batch_equals_its_networks(graphs: list[Graph], make_ghn: Callable[..., GHN]) -> None:
    for fields in (
        {},
        {"message_passing": "gated", "window": "corner"},
        {"message_passing": "mlp"},
    ):
        ghn = make_ghn(**fields)
        together = ghn(GraphBatch.from_graphs(graphs)).parameters
        for graph, parameters in zip(graphs, together, strict=True):
            (alone,) = ghn(GraphBatch.from_graphs([graph])).parameters
            assert alone.keys() == parameters.keys()
            for name in alone:
                torch.testing.assert_close(parameters[name], alone[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fields", VARIANTS)
@pytest.mark.parametrize(("narrow", "chunk"), [(100, 2**24), (0, 2**24), (0, 5000), (0, 1)])
def test_writing_equals_decoding(
    graphs: list[Graph],
    make_ghn: Callable[..., GHN],
    fields: dict,
    narrow: int,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By input or output channels, all at once, some or one output channel at a time."""
    monkeypatch.setattr("ghn.models.decoding.stream._NARROW", narrow)
    monkeypatch.setattr("ghn.models.decoding.costs.CPU", replace(CPU, chunk_bytes=chunk))
    ghn = make_ghn(**fields)
    expected = ghn(GraphBatch.from_graphs(graphs)).parameters
    targets = [
        {name: torch.zeros_like(p) for name, p in parameters.items()} for parameters in expected
    ]
    ghn.write(graphs, lambda graph, name: targets[graph][name])
    for target, parameters in zip(targets, expected, strict=True):
        for name in parameters:
            torch.testing.assert_close(
                target[name], parameters[name].detach(), atol=1e-5, rtol=1e-4, msg=name
            )


def test_gradient_of_the_whole(graphs: list[Graph], make_ghn: Callable[..., GHN]) -> None:
    """The gradient through slices, shared buffers and tiles is that of plain autograd."""
    ghn = make_ghn().double()
    batch = GraphBatch.from_graphs(graphs[:1])
    graph = graphs[0]
    generator = torch.Generator().manual_seed(0)
    prediction = ghn(batch)
    seeds = {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for name, p in prediction.parameters[0].items()
    }
    loss = sum((p * seeds[name]).sum() for name, p in prediction.parameters[0].items())
    ours = torch.autograd.grad(loss, tuple(ghn.parameters()), allow_unused=True)
    h_BND = ghn.embed(batch)
    loss = torch.zeros(())
    for node, name in enumerate(graph.param):
        if name:
            shape = graph.param_shape(node)
            head = node in graph.head
            tensors = decode_in_full(ghn, h_BND[0, node], shape, graph.primitive[node], head)
            for key, w in zip((name, name.replace("weight", "bias")), tensors, strict=False):
                loss = loss + (w * seeds[key]).sum()
    theirs = torch.autograd.grad(loss, tuple(ghn.parameters()), allow_unused=True)
    for (name, _), a, b in zip(ghn.named_parameters(), ours, theirs, strict=True):
        assert (a is None) == (b is None), name
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("kind", ["norm", "square"])
def test_penalty_is_the_sum_over_tensors(
    graphs: list[Graph], make_ghn: Callable[..., GHN], kind: str
) -> None:
    prediction = make_ghn()(GraphBatch.from_graphs(graphs))
    penalty = prediction.penalty(kind)  # type: ignore[arg-type]
    for b, parameters in enumerate(prediction.parameters):
        norms = torch.stack([p.norm() for p in parameters.values()])
        expected = norms.sum() if kind == "norm" else norms.square().sum()
        torch.testing.assert_close(penalty[b], expected)


def test_sliced_linear_has_the_gradient_of_indexing() -> None:
    torch.manual_seed(0)
    weight = torch.randn(24, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(24, dtype=torch.float64, requires_grad=True)
    inputs = [torch.randn(n, 5, dtype=torch.float64, requires_grad=True) for n in (3, 2, 4)]
    slices = [leading(2, 3), (slice(1, 4), slice(2, 3)), leading(4, 6)]
    outputs = sliced_linear(weight, bias, (4, 6), slices, inputs)
    expected = [
        F.linear(x, weight.view(4, 6, 5)[s].reshape(-1, 5), bias.view(4, 6)[s].reshape(-1))
        for x, s in zip(inputs, slices, strict=True)
    ]
    for a, b in zip(outputs, expected, strict=True):
        torch.testing.assert_close(a, b)
    wanted = [weight, bias, *inputs]
    ours = torch.autograd.grad(sum(o.square().sum() for o in outputs), wanted)
    theirs = torch.autograd.grad(sum(o.square().sum() for o in expected), wanted)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_plan_groups_by_kind_and_shape(graphs: list[Graph], make_ghn: Callable[..., GHN]) -> None:
    config = make_ghn().config
    planned = plan(graphs, [0, 100, 200], config)
    groups = [*planned.tensors, *planned.vectors]
    keys = [(group.kind, group.shape) for group in groups]
    assert len(set(keys)) == len(keys)
    members = sorted(
        (g, name) for group in groups for g, name in zip(group.graphs, group.names, strict=True)
    )
    assert members == sorted(
        (b, name) for b, graph in enumerate(graphs) for name in graph.param if name
    )
    for copied, costs in itertools.product((False, True), (CPU, GPU)):
        decoded = buckets(planned.tensors, config, costs, copied=copied)
        assert {group for bucket in decoded for group in bucket.groups} == set(planned.tensors)
        for bucket in decoded:
            for group in bucket.groups:
                assert group.channels[0] <= bucket.channels[0] <= config.decoder_channels
                assert group.channels[1] <= bucket.channels[1] <= config.decoder_channels


@pytest.mark.parametrize("fields", VARIANTS)
def test_a_card_s_buckets_are_fewer_and_decode_the_same(
    graphs: list[Graph],
    make_ghn: Callable[..., GHN],
    fields: dict,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ghn, batch = make_ghn(**fields), GraphBatch.from_graphs(graphs)
    planned = plan(graphs, batch.offsets, ghn.config)
    few, many = (buckets(planned.tensors, ghn.config, c, copied=True) for c in (GPU, CPU))
    assert len(few) < len(many)
    expected = ghn(batch).parameters
    targets = [{name: torch.zeros_like(p) for name, p in of.items()} for of in expected]
    monkeypatch.setattr("ghn.models.decoding.costs.CPU", GPU)
    ghn.write(graphs, lambda graph, name: targets[graph][name])
    for parameters, written, known in zip(ghn(batch).parameters, targets, expected, strict=True):
        for name, tensor in known.items():
            for found in (parameters[name], written[name]):
                torch.testing.assert_close(found, tensor, atol=1e-5, rtol=1e-4, msg=name)


def test_heads_can_be_left_out(graphs: list[Graph], make_ghn: Callable[..., GHN]) -> None:
    prediction = make_ghn()(GraphBatch.from_graphs(graphs), heads=False)
    assert all("head.weight" not in p and "head.bias" not in p for p in prediction.parameters)
    assert {(s.name, s.reason) for s in prediction.skipped} == {
        ("head.weight", "class head, kept on request"),
        ("head.bias", "class head, kept on request"),
    }


def test_unknown_shapes_are_skipped_with_a_reason(make_ghn: Callable[..., GHN]) -> None:
    primitive = np.array([Primitive.input, Primitive.conv, Primitive.bn, Primitive.bias], np.uint8)
    shape = np.array([[0] * 4, [5, 0, 0, 0], [2, 3, 0, 0], [4, 1, 0, 0]], np.int32)
    graph = Graph(
        primitive, np.array([[0, 1], [1, 2], [2, 3]], np.int32), shape, ["", "a", "b", "c"]
    )
    prediction = make_ghn()(GraphBatch.from_graphs([graph]))
    assert prediction.parameters == [{}]
    assert {s.name: s.reason for s in prediction.skipped} == {
        "a": "a weight with 1 dimensions",
        "b": "a normalisation weight with 2 dimensions",
        "c": "a bias with 2 dimensions",
    }
