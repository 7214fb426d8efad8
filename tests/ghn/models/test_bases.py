"""What predictions are added to: layers that pass channels on, and first layers that see the lowest
frequencies.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ghn import from_pretrained
from ghn.architectures import build
from ghn.checkpoint.conversion import convert
from ghn.errors import ConfigError, UnsupportedFormatError
from ghn.models import GHN, GHNConfig
from ghn.models.batch import GraphBatch
from ghn.models.decoding.bases import BESIDE, Pattern, add_base, base
from ghn.tracing import trace

IDENTITY = BESIDE["identity"]
CPU = torch.device("cpu")


class Chain(nn.Module):
    """A first convolution, one of each kind of layer behind it, and a head."""

    def __init__(self, inputs: int = 3, channels: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.wide = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(
            2 * channels, 2 * channels, 5, padding=2, groups=2 * channels, bias=False
        )
        self.narrow = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.hidden = nn.Linear(channels, 3 * channels)
        self.head = nn.Linear(3 * channels, 10)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """What the stem sees, passed on by all other convolutions."""
        return self.narrow(self.depthwise(self.wide(self.stem(x_BCHW))))  # type: ignore[no-any-return]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, 10)."""
        features = self.narrow(self.depthwise(self.wide(self.norm(self.stem(x_BCHW)).relu())))
        return self.head(self.hidden(features.mean((2, 3))).relu())  # type: ignore[no-any-return]


SIZES = {"decoder_channels": 8, "num_classes": 10}


@pytest.fixture
def ghn(make_ghn: Callable[..., GHN]) -> GHN:
    return make_ghn(**SIZES, base="identity")


@pytest.fixture
def plain(make_ghn: Callable[..., GHN]) -> GHN:
    """The same weights without a base."""
    return make_ghn(**SIZES)


def without_difference(ghn: GHN) -> GHN:
    """One that predicts nothing beside the base."""
    with torch.no_grad():
        for parameter in (*ghn.tensors.parameters(), *ghn.vectors.parameters()):
            parameter.zero_()
    return ghn


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kernel=st.lists(st.integers(1, 5), max_size=3),
)
def test_the_identity_passes_channels_on(shape: tuple[int, int], kernel: list[int]) -> None:
    """More outputs than inputs repeat them; fewer have the means of those that share a number."""
    outputs, inputs = shape
    kept = base(Pattern.identity, (*shape, *kernel), CPU)
    weight = kept[(..., *(size // 2 for size in kernel))]
    x_I = torch.randn(inputs)
    if outputs >= inputs:
        expected = x_I[torch.arange(outputs) % inputs]
    else:
        expected = torch.stack([x_I[o::outputs].sum() for o in range(outputs)]) * outputs / inputs
    torch.testing.assert_close(weight @ x_I, expected)
    assert kept.count_nonzero() == weight.count_nonzero()  # nothing beside the middle


@settings(deadline=None)
@given(
    outputs=st.integers(1, 70),
    inputs=st.integers(1, 4),
    kernel=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_frequencies_are_a_basis_with_both_signs(
    outputs: int, inputs: int, kernel: list[int]
) -> None:
    filters = base(Pattern.frequencies, (outputs, inputs, *kernel), CPU).flatten(1)
    torch.testing.assert_close(filters.norm(dim=1), torch.ones(outputs))
    n = filters.shape[1]
    whole = filters[: 2 * n]
    torch.testing.assert_close(whole[1::2], -whole[::2][: len(whole[1::2])])
    products = whole[::2] @ whole[::2].T
    torch.testing.assert_close(products, torch.eye(len(products)), atol=1e-5, rtol=0)
    torch.testing.assert_close(filters[2 * n :], filters[: max(0, outputs - 2 * n)])
    assert (filters[0] > 0).all()  # brightness comes first


@pytest.mark.parametrize(
    ("pattern", "shape"),
    [
        (Pattern.frequencies, (16, 3, 3, 3)),
        (Pattern.identity, (8, 24, 1, 1)),
        (Pattern.identity, (1200, 300)),
        (Pattern.identity, (24, 1, 5, 5)),
    ],
)
def test_in_place_is_the_same(pattern: Pattern, shape: tuple[int, ...]) -> None:
    start = torch.randn(shape)
    target = start.clone(memory_format=torch.contiguous_format)
    add_base(pattern, target)
    torch.testing.assert_close(target, start + base(pattern, shape, CPU))


def test_a_network_without_differences_passes_on_what_its_stem_sees(ghn: GHN) -> None:
    model = without_difference(ghn).initialize(Chain())
    assert isinstance(model, Chain)
    x_BCHW = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model.features(x_BCHW), model.stem(x_BCHW))
    torch.testing.assert_close(
        model.stem.weight.detach(), base(Pattern.frequencies, (12, 3, 3, 3), CPU)
    )
    torch.testing.assert_close(model.norm.bias.detach(), torch.full((12,), IDENTITY.norm_bias))
    assert not model.head.weight.any()


def test_a_first_layer_is_one_that_reads_the_input(ghn: GHN, plain: GHN) -> None:
    """Not one with three channels."""
    for inputs in (1, 3, 4):
        graph = trace(Chain(inputs, 3), (torch.zeros(1, inputs, 16, 16),))
        (found,) = ghn(GraphBatch.from_graphs([graph])).parameters
        (alone,) = plain(GraphBatch.from_graphs([graph])).parameters
        stem = base(Pattern.frequencies, (3, inputs, 3, 3), CPU)
        wide = base(Pattern.identity, (6, 3, 3, 3), CPU)
        torch.testing.assert_close(
            found["stem.weight"], IDENTITY.difference * alone["stem.weight"] + stem
        )
        torch.testing.assert_close(
            found["wide.weight"], IDENTITY.difference * alone["wide.weight"] + wide
        )


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vgg11", "squeezenet1_0"])
@pytest.mark.parametrize("flattened", ["columns", "kernels"])
def test_prediction_in_place_is_that_of_training(
    name: str,
    flattened: str,
    make_ghn: Callable[..., GHN],
    predicted_in_place: Callable[..., dict[str, Tensor]],
) -> None:
    ghn = make_ghn(**SIZES, base="identity", flattened=flattened)
    model = build(name, num_classes=10, image_size=32)
    graph = trace(model, image_size=32)
    predicted_in_place(ghn, model, graph)


def test_class_weights_sum_to_zero(ghn: GHN) -> None:
    """Whatever is predicted: what all features share tells no image apart."""
    (found,) = ghn(GraphBatch.from_graphs([trace(Chain())])).parameters
    rows = found["head.weight"][:, :32]  # whole blocks of the decoder
    assert rows.abs().max() > 1e-3
    torch.testing.assert_close(rows.mean(1), torch.zeros(10), atol=1e-6, rtol=0)


def test_penalties_are_of_the_differences(ghn: GHN) -> None:
    graphs = GraphBatch.from_graphs([trace(Chain())])
    prediction = without_difference(ghn)(graphs)
    bias = IDENTITY.norm_bias * 12**0.5
    norm_weight = 12**0.5  # 2 * sigmoid(0)
    assert prediction.penalty().item() == pytest.approx(bias + norm_weight)


def test_gradients_are_those_of_the_differences(ghn: GHN, plain: GHN) -> None:
    graphs = GraphBatch.from_graphs([trace(Chain())])
    for one, factor in ((ghn, 1.0), (plain, IDENTITY.difference)):
        (factor * one(graphs).parameters[0]["wide.weight"].sum()).backward()
    torch.testing.assert_close(ghn.tensors.block.weight.grad, plain.tensors.block.weight.grad)


def test_a_file_says_it_only_where_it_is_not_as_published(
    tmp_path: Path, ghn: GHN, plain: GHN
) -> None:
    ghn.save_pretrained(tmp_path / "based")
    assert from_pretrained(tmp_path / "based").config.base == "identity"
    assert "base" not in plain.config.to_dict()
    for name in ("a.pt", "a.safetensors"):
        with pytest.raises(UnsupportedFormatError, match="has base = identity, which released"):
            convert(tmp_path / "based", tmp_path / name, released=True)


@pytest.mark.parametrize("fields", [{"decoder": "low-rank"}, {"normalize": False}])
def test_what_has_no_base_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="base is identity, for which decoder must be tiled"):
        GHNConfig(**fields, base="identity")
