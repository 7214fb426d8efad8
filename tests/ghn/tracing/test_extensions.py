"""Layers that need an extension: unknown without it, a node and a prediction with it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ghn
from ghn.errors import ConfigError
from ghn.graph import Primitive
from ghn.models import GHN, GHNConfig
from ghn.models.batch import GraphBatch
from ghn.tracing import trace
from ghn.tracing.extensions import EXTENSIONS


class AddMM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(8, 12)), nn.Parameter(torch.zeros(12))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


class MatMul(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 12))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class LeftMatMul(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(12, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight @ x.mT


class EinSum(nn.Module):
    """A projection to heads, and one of constants, as tables of relative positions are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 2, 4))
        self.positions = nn.Parameter(torch.zeros(3, 2, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("btd,dhk->bthk", x, self.weight)
        return y + torch.einsum("tp,phk->thk", torch.ones(x.shape[1], 3), self.positions)


class HandWrittenRMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        y = x.to(torch.float32)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * y.to(x.dtype)


class Scale(nn.Module):
    """A layer scale: no norm, whatever came before."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) * self.weight


CASES = [
    ("addmm", AddMM, (2, 8), ["conv", "bias"]),
    ("matmul", MatMul, (2, 5, 8), ["conv"]),
    ("matmul", LeftMatMul, (2, 5, 8), ["conv"]),
    ("einsum", EinSum, (2, 5, 8), ["conv", "conv"]),
    ("rms_norm", HandWrittenRMSNorm, (2, 5, 8), ["ln"]),
    ("rms_norm", lambda: nn.RMSNorm(8), (2, 5, 8), ["ln"]),
    ("group_norm", lambda: nn.GroupNorm(2, 8), (2, 8, 4, 4), ["ln"]),
    ("conv1d", lambda: nn.Conv1d(8, 12, 3), (2, 8, 9), ["conv", "bias"]),
    ("conv1d", lambda: nn.Conv1d(8, 8, 3, groups=8), (2, 8, 9), ["sep_conv", "bias"]),
    ("conv3d", lambda: nn.Conv3d(8, 12, (3, 5, 2)), (2, 8, 9, 9, 9), ["conv", "bias"]),
    ("conv_transpose", lambda: nn.ConvTranspose1d(8, 12, 3), (2, 8, 9), ["conv", "bias"]),
    ("conv_transpose", lambda: nn.ConvTranspose2d(8, 12, 3), (2, 8, 9, 9), ["conv", "bias"]),
    ("conv_transpose", lambda: nn.ConvTranspose3d(8, 12, 3), (2, 8, 4, 4, 4), ["conv", "bias"]),
]
IDS = [f"{extension}-{index}" for index, (extension, *_) in enumerate(CASES)]


def kinds(model: nn.Module, inputs: Tensor, **options: object) -> list[str]:
    graph = trace(model, inputs, **options)  # type: ignore[arg-type]
    graph.validate()
    nodes = zip(graph.primitive, graph.param, strict=True)
    return [Primitive(kind).name for kind, name in nodes if name]


def test_every_extension_has_a_case() -> None:
    assert {extension for extension, *_ in CASES} == set(EXTENSIONS)


@pytest.mark.parametrize(("extension", "build", "shape", "expected"), CASES, ids=IDS)
def test_nodes_only_with_the_extension(
    extension: str, build: type[nn.Module], shape: tuple[int, ...], expected: list[str]
) -> None:
    model, inputs = build(), torch.zeros(shape)
    assert kinds(model, inputs) == []
    others = [name for name in EXTENSIONS if name != extension]
    assert kinds(model, inputs, extensions=others) == []
    assert kinds(model, inputs, extensions=[extension]) == expected


@pytest.mark.parametrize("fields", [{}, {"decoder": "low-rank", "rank": 4, "factor_length": 64}])
@pytest.mark.parametrize(("extension", "build", "shape", "expected"), CASES, ids=IDS)
def test_predicted_with_the_extension(
    extension: str,
    build: type[nn.Module],
    shape: tuple[int, ...],
    expected: list[str],
    fields: dict,
) -> None:
    torch.manual_seed(0)
    small = {"hidden": 16, "layers": 1, "num_classes": 5, "decoder_channels": 8}
    hypernetwork = GHN(GHNConfig(**small, decoder_kernel=11, **fields))
    model, inputs = build(), torch.randn(shape)
    before = [parameter.clone() for parameter in model.parameters()]
    graph = trace(model, inputs, extensions=[extension])
    planned = ghn.coverage(model, hypernetwork, graph)
    hypernetwork(model, graph)
    assert planned == hypernetwork.reports[0]
    assert planned.complete
    for old, new in zip(before, model.parameters(), strict=True):
        assert not torch.equal(old, new)
    assert torch.isfinite(model(inputs)).all()


@pytest.mark.parametrize("fields", [{}, {"decoder": "low-rank", "rank": 4, "factor_length": 64}])
def test_three_dimensional_kernels_are_trained_through(fields: dict) -> None:
    torch.manual_seed(0)
    small = {"hidden": 16, "layers": 1, "num_classes": 5, "decoder_channels": 8}
    hypernetwork = GHN(GHNConfig(**small, decoder_kernel=11, **fields))
    head = (nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(12, 5))
    model, clips = nn.Sequential(nn.Conv3d(2, 12, (3, 5, 2)), *head), torch.randn(3, 2, 6, 6, 6)
    graph = trace(model, clips, extensions=["conv3d"])
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    (parameters,) = hypernetwork(GraphBatch.from_graphs([graph]), shapes=[shapes]).parameters
    assert {name: tuple(tensor.shape) for name, tensor in parameters.items()} == shapes
    predicted = hypernetwork.predict(model, graph)
    torch.testing.assert_close(dict(parameters), {name: predicted[name] for name in parameters})
    logits = torch.func.functional_call(model, dict(parameters), (clips,))
    F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    last = [p for name, p in hypernetwork.tensors.named_parameters() if name.startswith("block")]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in last)


def test_a_scale_is_no_norm() -> None:
    assert kinds(Scale(), torch.zeros(2, 5, 8), extensions="all") == []


def test_extensions_leave_other_networks_alone() -> None:
    """The graph of an attention, whose products have no parameters."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    inputs = torch.zeros(2, 5, 8)
    plain, extended = (trace(layer, inputs, extensions=names) for names in ((), "all"))
    assert plain.to_json_dict() == extended.to_json_dict()


def test_unknown_extensions_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no extension 'rope' of tracing; use 'all' or some of"):
        trace(nn.Linear(3, 4), extensions=["rope"])
