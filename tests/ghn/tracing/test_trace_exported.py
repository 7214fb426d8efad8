"""Programs of `torch.export`: the graph is that of the module that was exported."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.export import ExportedProgram, export
from torch.nn import functional as F

import ghn
from ghn.architectures import build
from ghn.errors import TraceError
from ghn.graph import Graph
from ghn.models import GHN, GHNConfig
from ghn.tracing import trace

FAMILIES = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11_bn",
    "vit_b_32",
)


class Mixed(nn.Module):
    """Convolutions, a gate, attention, operations in place and on views, a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.branch = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False)
        self.position = nn.Parameter(torch.zeros(1, 16, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.bias = nn.Linear(2, 1)
        self.layer_norm, self.scale = nn.LayerNorm(8), nn.Parameter(torch.ones(8))
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.attention.out_proj.weight
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = torch.cat([x, F.max_pool2d(self.branch(x), 3, 1, 1)])[: len(x)]
        x = x.flatten(2).mT + self.position
        y = self.attention(*[self.layer_norm(x)] * 3, need_weights=False)[0]
        y += x * self.scale
        z = y.clone()
        z[:, 0].mul_(2)
        z[:, 1] = self.tied(y[:, 2])
        table = self.bias(torch.ones(5, 2))[torch.arange(16) % 5]  # of relative positions
        scores = torch.softmax(z @ y.mT + table.flatten(), dim=-1)
        return self.head((scores @ y).mean(1))


class Extended(nn.Module):
    """Layers that have nodes with extensions only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.up, self.rms = nn.ConvTranspose1d(8, 8, 2, 2), nn.RMSNorm(8)
        self.weight, self.bias = nn.Parameter(torch.zeros(8, 6)), nn.Parameter(torch.zeros(6))
        self.last = nn.Parameter(torch.zeros(6, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.rms(self.up(self.norm(self.conv(x))).mT)
        x = torch.addmm(self.bias, x.mean(1), self.weight)
        return torch.einsum("bi,ijk->bjk", x, self.last)


class Wrapped(nn.Module):
    """A part without gradients, and one with another precision."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(3, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.first(x)
            y = x + 1
        with torch.autocast("cpu", torch.bfloat16):
            z = self.second(x)
        return self.third(z.float()) + y


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: self.linear(x), lambda x: x + 1, (x,))


def same(a: Graph, b: Graph) -> bool:
    return a.to_json_dict() == b.to_json_dict() and a.name == b.name


@pytest.fixture(scope="module")
def mixed() -> tuple[nn.Module, Tensor, ExportedProgram]:
    model, images = Mixed().eval(), torch.zeros(2, 3, 8, 8)
    return model, images, export(model, (images,))


@pytest.mark.parametrize("compatible", [True, False])
def test_equals_tracing(mixed: Any, compatible: bool) -> None:
    model, images, program = mixed
    found = trace(program, reference_compatible=compatible)
    found.validate()
    assert same(found, trace(model, images, reference_compatible=compatible))


def test_predictions_are_equal(mixed: Any) -> None:
    model, images, program = mixed
    small = {"hidden": 16, "layers": 1, "heads": 2, "num_classes": 5, "decoder_channels": 8}
    hypernetwork = GHN(GHNConfig(**small, decoder_kernel=11))
    expected = hypernetwork.predict(model, example_inputs=images)
    found = hypernetwork.predict(model, ghn.trace(program))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_shuffled_channels_are_followed() -> None:
    model = build("little_shufflenet_v2", 10, 32).eval()
    images = torch.zeros(2, 3, 32, 32)
    expected, found = trace(model, images), trace(export(model, (images,)))
    assert expected.columns
    assert same(found, expected)
    small = {"hidden": 16, "layers": 1, "heads": 2, "num_classes": 10, "decoder_channels": 8}
    hypernetwork = GHN(GHNConfig(**small, decoder_kernel=11, shuffled="channels"))
    states = [hypernetwork.predict(model, graph) for graph in (expected, found)]
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())


@pytest.mark.parametrize("extensions", [(), "all"])
def test_extensions(extensions: Any) -> None:
    model, inputs = Extended(), torch.zeros(2, 4, 6)
    program = export(model, (inputs,))
    found = trace(program, extensions=extensions)
    assert same(found, trace(model, inputs, extensions=extensions))
    assert any(found.param) == bool(extensions)


def test_parts_without_gradients_are_read() -> None:
    model, inputs = Wrapped(), torch.zeros(2, 3)
    found = trace(export(model, (inputs,)))
    assert [name for name in found.param if name.endswith("weight")] == [
        "first.weight",
        "second.weight",
        "third.weight",
    ]
    assert same(found, trace(model, inputs))


def test_what_cannot_be_read_is_refused(mixed: Any) -> None:
    _, images, program = mixed
    with pytest.raises(TraceError, match="Linear: the program is decomposed"):
        trace(export(nn.Linear(3, 4), (torch.zeros(2, 3),)).run_decompositions())
    with pytest.raises(TraceError, match="trace the program itself"):
        trace(program.module(), images)

    with pytest.raises(TraceError, match=r"Branches: the operator cond has a body of its own"):
        trace(export(Branches(), (torch.zeros(2, 3),)))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_torchvision(name: str) -> None:
    heads = name in ("googlenet", "inception_v3")  # tracing takes those of training, too
    fields = {"init_weights": False} if heads else {}
    model = getattr(torchvision.models, name)(**fields).train(heads).to("meta")
    side = 299 if name == "inception_v3" else 224
    images = torch.empty(2, 3, side, side, device="meta")
    assert same(trace(export(model, (images,))), trace(model, images))
