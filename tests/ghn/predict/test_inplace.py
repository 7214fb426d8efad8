"""Prediction into networks as users have them: wrapped, frozen, half precision, in a training loop,
several at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torchvision.models import mnasnet0_5

from ghn import GHN, Graph, GraphBatch, coverage, trace
from ghn.errors import ConfigError, InvalidGraphError


class Small(nn.Module):
    """A convolution, a residual block, a class head, a parameter that is no primitive and one that
    is not used.
    """

    def __init__(self, classes: int = 10, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.5))
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.scale * self.block(x)
        return self.head(x.mean((2, 3)))


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


KEPT = {"scale", "unused.weight", "unused.bias"}


def test_in_place_and_reported(hypernetwork: GHN) -> None:
    model = Small()
    objects = {name: (p, p.data_ptr()) for name, p in model.named_parameters()}
    before = snapshot(model)
    assert hypernetwork(model) is model
    for name, p in model.named_parameters():
        assert objects[name] == (p, p.data_ptr())
        assert torch.equal(p, before[name]) == (name in KEPT)
        assert p.isfinite().all()
    (report,) = hypernetwork.reports
    assert {kept.name for kept in report.kept} == KEPT
    assert report.n_parameters == sum(p.numel() for p in model.parameters())
    assert report.n_predicted == report.n_parameters - sum(before[name].numel() for name in KEPT)
    assert not report.complete
    text = str(report)
    assert text.startswith(
        f"Small: predicted {report.n_predicted:,} of {report.n_parameters:,} numbers"
    )
    assert "not a primitive (in a Small) (scale)" in text
    assert "(in a Linear) (unused.weight, unused.bias)" in text


def test_predicting_twice_gives_the_same_and_draws_nothing(hypernetwork: GHN) -> None:
    model = Small()
    torch.manual_seed(5)
    first = snapshot(hypernetwork(model))
    state = torch.get_rng_state()
    hypernetwork.train()
    try:
        second = snapshot(hypernetwork(model))
    finally:
        hypernetwork.eval()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(state, torch.get_rng_state())


def test_predict_leaves_the_model_alone(hypernetwork: GHN) -> None:
    model = Small().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = hypernetwork.predict(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    other = Small()
    missing, unexpected = other.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) >= KEPT
    hypernetwork(model)
    for name, tensor in state.items():
        assert torch.equal(tensor, model.get_parameter(name)), name
    assert {kept.name for kept in state.report.kept} == KEPT


def test_a_prediction_is_loaded_by_modules_that_ask_for_versions(hypernetwork: GHN) -> None:
    state = hypernetwork.predict(mnasnet0_5())
    other = mnasnet0_5()
    other.load_state_dict(state, strict=False)
    for name, tensor in state.items():
        assert torch.equal(tensor, other.get_parameter(name)), name


def test_the_meta_device(hypernetwork: GHN) -> None:
    with torch.device("meta"):
        model = Small()
    state = hypernetwork.predict(model)
    assert state["stem.weight"].device.type == "cpu"
    assert set(state) == {name for name, _ in model.named_parameters()} - KEPT
    with pytest.raises(ConfigError, match=r"scale is on the meta device; call model\.to_empty"):
        hypernetwork(model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(hypernetwork: GHN, dtype: torch.dtype) -> None:
    single, model = Small(), Small().to(dtype)
    hypernetwork(single)
    hypernetwork(model)
    state = hypernetwork.predict(model)
    for name, p in model.named_parameters():
        assert p.dtype == dtype
        if name not in KEPT:
            assert torch.equal(p, single.get_parameter(name).to(dtype))
            assert torch.equal(p, state[name])


def test_a_double_precision_hypernetwork(hypernetwork: GHN) -> None:
    single, model = snapshot(hypernetwork(Small())), Small()
    double = copy.deepcopy(hypernetwork).double()
    for name, p in double(model).named_parameters():
        if name not in KEPT:
            torch.testing.assert_close(p, single[name], atol=1e-5, rtol=1e-4)


def test_channels_last(hypernetwork: GHN) -> None:
    expected, model = Small(), Small().to(memory_format=torch.channels_last)
    hypernetwork([expected, model])
    assert model.stem.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(model.stem.weight, expected.stem.weight)


def test_under_autocast(hypernetwork: GHN) -> None:
    expected, model = snapshot(hypernetwork(Small())), Small()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hypernetwork(model)
    assert all(
        torch.equal(expected[name], p) for name, p in model.named_parameters() if name not in KEPT
    )


def test_frozen_parameters(hypernetwork: GHN) -> None:
    model = Small()
    model.block.requires_grad_(False)
    before = snapshot(model)
    hypernetwork(model)
    frozen = {name for name, _ in model.named_parameters() if name.startswith("block")}
    for name in frozen:
        assert torch.equal(model.get_parameter(name), before[name])
    assert not torch.equal(model.stem.weight, before["stem.weight"])
    reasons = {kept.name: kept.reason for kept in hypernetwork.reports[0].kept}
    assert {reasons[name] for name in frozen} == {"frozen (requires_grad is off)"}
    hypernetwork(model, frozen="predict")
    assert all(not torch.equal(model.get_parameter(name), before[name]) for name in frozen)
    assert not model.block[0].weight.requires_grad
    model.requires_grad_(False)
    with pytest.raises(
        ConfigError, match='all parameters of this Small are frozen; pass frozen="predict"'
    ):
        hypernetwork(model)
    with pytest.raises(ConfigError, match="frozen is 'yes'"):
        hypernetwork(model, frozen="yes")  # type: ignore[arg-type]


def test_keeping_the_head(hypernetwork: GHN) -> None:
    model = Small(classes=37)
    before = snapshot(model)
    hypernetwork(model, keep_head=True)
    assert torch.equal(model.head.weight, before["head.weight"])
    assert torch.equal(model.head.bias, before["head.bias"])
    assert not torch.equal(model.stem.weight, before["stem.weight"])
    reasons = {kept.name: kept.reason for kept in hypernetwork.reports[0].kept}
    assert reasons["head.weight"] == "class head, kept on request"
    assert "head.weight" not in hypernetwork.predict(model, keep_head=True)


@pytest.mark.parametrize("classes", [1, 3, 10, 1000])
def test_class_counts(hypernetwork: GHN, classes: int) -> None:
    model = hypernetwork(Small(classes=classes))
    logits = model(images())
    assert logits.shape == (4, classes)
    assert logits.isfinite().all()
    if classes > 10:  # the classes of the hypernetwork repeat
        assert torch.equal(model.head.bias[:10], model.head.bias[10:20])


def test_training_loop(hypernetwork: GHN) -> None:
    """An optimiser made before the prediction goes on with the predicted parameters."""
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    labels = torch.tensor([0, 1, 2, 3])

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images()), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    step()
    gradient = model.stem.weight.grad
    hypernetwork(model)
    assert model.stem.weight.grad is gradient
    start = snapshot(model)
    losses = [step() for _ in range(10)]
    assert losses[-1] < losses[0]
    assert not torch.equal(model.stem.weight, start["stem.weight"])


def test_compiled_models(hypernetwork: GHN) -> None:
    """Compiled code sees the new parameters without being compiled again."""
    model, compiled_count = Small().eval(), 0

    def backend(module: torch.fx.GraphModule, _: object) -> object:
        nonlocal compiled_count
        compiled_count += 1
        return module.forward

    compiled = torch.compile(model, backend=backend)
    before = compiled(images())
    count = compiled_count
    assert hypernetwork(compiled) is compiled
    after = compiled(images())
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, model(images()))
    assert compiled_count == count
    assert set(hypernetwork.predict(compiled)) == set(hypernetwork.predict(model))


@pytest.mark.parametrize("wrap", [DataParallel, torch.compile])
def test_the_graph_of_a_wrapped_network_belongs_to_it(
    hypernetwork: GHN, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    model = Small()
    expected = hypernetwork(copy.deepcopy(model))
    wrapped = wrap(model)
    for graph in (trace(wrapped), trace(model)):
        hypernetwork(wrapped, graph)
        torch.testing.assert_close(model.state_dict(), expected.state_dict())
        assert set(hypernetwork.predict(wrapped, graph)) == set(hypernetwork.predict(expected))


def test_a_compiled_part(hypernetwork: GHN) -> None:
    expected, model = Small(), Small()
    model.block = torch.compile(model.block, backend="eager")  # type: ignore[assignment]
    hypernetwork([expected, model])
    theirs = {name.replace("_orig_mod.", ""): p for name, p in model.named_parameters()}
    for name, p in expected.named_parameters():
        if name not in KEPT:
            assert torch.equal(p, theirs[name])


def test_data_parallel(hypernetwork: GHN) -> None:
    expected, model = Small(), Small()
    hypernetwork(expected)
    hypernetwork(DataParallel(model))
    assert torch.equal(expected.stem.weight, model.stem.weight)


def test_the_state_of_a_wrapped_network_loads_into_the_one_inside(hypernetwork: GHN) -> None:
    """It has the metadata of that network: a MNASNet without would shrink its first layers."""
    inner = mnasnet0_5(num_classes=10)
    shapes = {name: value.shape for name, value in inner.state_dict().items()}
    state = hypernetwork.predict(DataParallel(inner))
    inner.load_state_dict(state, strict=False)
    assert {name: value.shape for name, value in inner.state_dict().items()} == shapes
    assert all(torch.equal(value, inner.state_dict()[name]) for name, value in state.items())


def test_other_numbers_of_graphs_are_refused(hypernetwork: GHN) -> None:
    models, graph = [Small(), Small()], trace(Small())
    before = models[0].stem.weight.clone()
    for graphs in (graph, [graph], []):
        with pytest.raises(ConfigError, match=r"2 networks and [01] graphs"):
            hypernetwork(models, graphs)
    assert torch.equal(models[0].stem.weight, before)


def test_a_saved_state_is_read_like_any_other(hypernetwork: GHN, tmp_path: Path) -> None:
    state, path = hypernetwork.predict(mnasnet0_5(num_classes=10)), tmp_path / "state.pt"
    torch.save(state, path)
    read = torch.load(path)
    assert read._metadata == state._metadata
    other = mnasnet0_5(num_classes=10)
    other.load_state_dict(read, strict=False)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in state.items())
    for copied in (copy.copy(state), copy.deepcopy(state)):
        assert copied.report == state.report
        assert copied.keys() == state.keys()


def test_distributed_data_parallel(
    hypernetwork: GHN, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = dist.FileStore(str(tmp_path_factory.mktemp("ddp") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        expected, model = Small(), Small()
        hypernetwork(expected)
        wrapped = DistributedDataParallel(model, find_unused_parameters=True)
        hypernetwork(wrapped)
        assert torch.equal(expected.stem.weight, model.stem.weight)
        wrapped(images()).sum().backward()
        assert model.stem.weight.grad is not None
    finally:
        dist.destroy_process_group()


def test_several_networks_at_once(hypernetwork: GHN, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [Small(classes=n, width=w) for n, w in ((3, 8), (10, 24), (5, 40))]
    alone = [snapshot(hypernetwork(copy.deepcopy(model))) for model in models]
    for limit in (2**28, 1):  # together, and one by one
        monkeypatch.setattr("ghn.predict.inplace.MAX_ATTENTION_BYTES", limit)
        together = copy.deepcopy(models)
        assert hypernetwork(together) is together
        assert len(hypernetwork.reports) == 3
        for model, expected in zip(together, alone, strict=True):
            for name, p in model.named_parameters():
                torch.testing.assert_close(p, expected[name], atol=1e-5, rtol=1e-4)


def test_shared_modules_and_tied_parameters(hypernetwork: GHN) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(6, 6)
            self.again = self.stem
            self.out = nn.Linear(6, 6)
            self.out.weight = self.stem.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.again(torch.relu(self.stem(x)))))

    model = Shared()
    hypernetwork(model)
    assert model.out.weight is model.stem.weight
    assert hypernetwork.reports[0].n_parameters == 36 + 6 + 6
    assert hypernetwork.reports[0].complete
    assert len(set(map(id, hypernetwork.predict(model).values()))) >= 3


class NormWithPositions(nn.Module):
    """A norm without a bias of its own; `bias` is a table of positions, or is added later on."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.full(shape, 9.0))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised sequence with positions."""
        return nn.functional.layer_norm(x, (8,), self.weight) + self.bias


class WithPositions(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), NormWithPositions(*shape)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x).flatten(2).mT).mean(1))


@pytest.mark.parametrize("shape", [(1, 9, 8), (9, 8), (1, 1, 9, 8), (1,), (8,)])
def test_the_bias_of_a_norm_has_the_shape_of_its_weight(
    shape: tuple[int, ...], hypernetwork: GHN
) -> None:
    x = torch.zeros(2, 3, 5, 5)
    model = WithPositions(*shape)
    graph = trace(model, x)
    expected = coverage(model, hypernetwork, graph)
    state = hypernetwork.predict(model, graph)
    hypernetwork(model, graph)
    (report,) = hypernetwork.reports
    assert report == state.report == expected
    for name, tensor in state.items():
        assert torch.equal(model.get_parameter(name), tensor)
    assert ("norm.bias" in state) == bool((model.norm.bias != 9).all())
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    batch = GraphBatch.from_graphs([graph])
    (trained,) = hypernetwork(batch, shapes=[shapes]).parameters
    assert {name: tuple(tensor.shape) for name, tensor in trained.items()} == {
        name: shapes[name] for name in state
    }
    if any(name == "norm.bias" for name in graph.param):
        (trained,) = hypernetwork(batch).parameters
        assert trained["norm.bias"].numel() == model.norm.bias.numel()


def test_a_graph_of_another_model_is_refused(hypernetwork: GHN) -> None:
    graph = trace(Small())
    with pytest.raises(
        InvalidGraphError,
        match=r"'stem\.weight' of shape \(8, 3, 3, 3\), the graph of \(24, 3, 3, 3\)",
    ):
        hypernetwork(Small(width=8), graph)
    with pytest.raises(
        InvalidGraphError, match=r"has no parameter 'stem\.weight'; leave the graph out"
    ):
        hypernetwork(nn.Linear(3, 3), graph)


def test_a_given_graph_is_used(hypernetwork: GHN, monkeypatch: pytest.MonkeyPatch) -> None:
    model, traced = Small(), Small()
    graph: Graph = trace(model)
    hypernetwork(traced)

    def fail(*_: object) -> None:
        raise AssertionError("must not trace")

    monkeypatch.setattr("ghn.predict.target.follow", fail)
    hypernetwork(model, graph)
    assert torch.equal(model.stem.weight, traced.stem.weight)


def test_lazy_modules_are_refused(hypernetwork: GHN) -> None:
    model = nn.Sequential(nn.LazyLinear(4))
    graph = trace(nn.Sequential(nn.Linear(3, 4)))
    with pytest.raises(
        ConfigError, match=r"Sequential\.0\.weight has no shape yet; run the network once first"
    ):
        hypernetwork(model, graph)
