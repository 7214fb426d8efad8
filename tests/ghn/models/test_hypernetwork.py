"""The hypernetwork as a module: precision, copies, empty networks, initialisation."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ghn import GHN, GHNConfig, Graph, GraphBatch, Primitive
from ghn.models import for_classes, widened

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


@pytest.mark.parametrize(
    "fields", [{}, {"message_passing": "gated", "layers": 2, "edge_embedding": "none"}], ids=str
)
def test_a_plan_made_ahead_is_used_by_the_hypernetwork_that_it_is_for(
    graphs: list[Graph],
    make_ghn: Callable[..., GHN],
    fields: dict,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ghn, other = make_ghn(**fields), make_ghn(**fields, hidden=32)
    batch = GraphBatch.from_graphs(graphs)
    expected, of_other = ghn(batch).parameters, other(batch).parameters
    ahead = pickle.loads(pickle.dumps(batch.planned_for(ghn.config)))  # as from a loader's worker
    assert_equal(other(ahead).parameters, of_other)
    monkeypatch.setattr("ghn.models.batch.plan", None)  # nothing is planned in the step
    monkeypatch.setattr("ghn.models.batch.Levels", None)
    assert_equal(ghn(ahead).parameters, expected)


def assert_equal(found: Any, expected: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_pickled_copies_predict_the_same(graphs: list[Graph], make_ghn: Callable[..., GHN]) -> None:
    ghn = make_ghn()
    batch = GraphBatch.from_graphs(graphs)
    expected, copied = (
        ghn(batch).parameters,
        pickle.loads(pickle.dumps(ghn))(batch).parameters,
    )
    for a, b in zip(expected, copied, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A group of this process alone."""
    torch.distributed.init_process_group(
        "gloo", init_method=(tmp_path / "group").as_uri(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(
    "wrap",
    [
        DistributedDataParallel,
        pytest.param(partial(torch.compile, backend="eager"), marks=pytest.mark.slow),
    ],
    ids=["ddp", "compile"],
)
def test_wrappers_run_the_differentiable_forward_pass(
    graphs: list[Graph], make_ghn: Callable[..., GHN], wrap: Callable[[GHN], Any]
) -> None:
    batch = GraphBatch.from_graphs(graphs)
    plain, wrapped = make_ghn(), make_ghn()
    passes: list[nn.Module] = []
    wrapped.register_forward_hook(lambda module, args, output: passes.append(module))
    outer = wrap(wrapped)
    predictions = [ghn(batch) for ghn in (plain, outer)]
    for a, b in zip(predictions[0].parameters, predictions[1].parameters, strict=True):
        torch.testing.assert_close(a, b)
    assert passes == [wrapped]
    for prediction in predictions:
        prediction.penalty().sum().backward()
    gradient = wrapped.tensors.block.weight.grad
    assert gradient is not None
    torch.testing.assert_close(gradient, plain.tensors.block.weight.grad)


def test_calling_with_networks_is_initialize(make_ghn: Callable[..., GHN]) -> None:
    torch.manual_seed(0)
    ghn, called, named = make_ghn(), nn.Linear(4, 5), nn.Linear(4, 5)
    assert ghn(called) is called
    assert ghn.initialize([named])[0] is named
    assert torch.equal(called.weight, named.weight)
    assert [report.network for report in ghn.reports] == ["Linear"]


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


@pytest.mark.parametrize(
    "changed",
    [
        lambda ghn: ghn.with_flattened("kernels"),
        lambda ghn: ghn.with_shuffled("channels"),
        lambda ghn: widened(ghn, 32),
        lambda ghn: for_classes(ghn, 7),
    ],
    ids=["flattened", "shuffled", "widened", "classes"],
)
def test_copies_are_where_the_hypernetwork_is(
    make_ghn: Callable[..., GHN], changed: Callable[[GHN], GHN]
) -> None:
    for device in ("cpu", "meta"):
        ghn = make_ghn().to(device)
        other = changed(ghn)
        assert other.config != ghn.config
        assert {tensor.device.type for tensor in (*other.parameters(), *other.buffers())} == {
            device
        }
