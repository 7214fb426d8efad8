"""Linear layers behind flattened maps: found in the graph, and decoded as kernels on request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ghn import from_pretrained
from ghn.architectures import build
from ghn.checkpoint.conversion import convert
from ghn.errors import ConfigError, UnsupportedFormatError
from ghn.graph import Graph, Primitive
from ghn.graph.flattening import flattened_inputs
from ghn.models import GHN
from ghn.models.batch import GraphBatch
from ghn.tracing import trace

SIZES = {"decoder_channels": 8, "num_classes": 10}
LOW_RANK = {"decoder": "low-rank", "rank": 4, "factor_length": 64}


class Flattening(nn.Module):
    """Two branches of 5 and 7 channels, put together and flattened, then linear layers."""

    def __init__(self, side: int = 3, hidden: int | None = 20) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 7, 3)
        self.norm = nn.BatchNorm2d(7)
        self.pool = nn.AdaptiveAvgPool2d(side)
        columns = 12 * side * side
        self.hidden = nn.Linear(columns, hidden) if hidden else nn.Identity()
        self.head = nn.Linear(hidden or columns, 10)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, 10)."""
        both = torch.cat([self.first(x_BCHW), self.norm(self.second(x_BCHW))], dim=1)
        return self.head(self.hidden(self.pool(both).flatten(1)).relu())  # type: ignore[no-any-return]


def found(model: nn.Module, image_size: int = 16) -> dict[str, tuple[int, int]]:
    """Names of the layers that are found in a network."""
    graph = trace(model, image_size=image_size)
    return {graph.param[node]: maps for node, maps in flattened_inputs(graph).items()}


def test_channels_of_branches_are_added_up() -> None:
    assert found(Flattening()) == {"hidden.weight": (12, 3)}
    assert found(Flattening(side=2, hidden=None)) == {"head.weight": (12, 2)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alexnet", {"classifier.1.weight": (256, 6)}),
        ("vgg11_bn", {"classifier.0.weight": (512, 7)}),
        ("squeezenet1_1", {}),
        ("vit_b_32", {}),
        ("swin_t", {}),  # merges four patches: columns are patches times channels, as the norm's
        ("swin_v2_t", {f"features.{2 * k}.reduction.weight": (48 << k, 2) for k in (1, 2, 3)}),
        ("convnext_tiny", {}),
    ],
)
def test_networks_of_torchvision(name: str, expected: dict[str, tuple[int, int]]) -> None:
    assert found(build(name, device="meta"), image_size=224) == expected


def test_a_thousand_sums_on_the_way() -> None:
    """One after the other, as in residual networks without norms: each passes on its first."""
    nodes = 2000
    shape = np.zeros((nodes + 3, 4), dtype=np.int32)
    shape[1], shape[-1] = (8, 3, 3, 3), (10, 32, 0, 0)
    kinds = [Primitive.input, Primitive.conv, *[Primitive.sum] * nodes, Primitive.conv]
    chain = [(node, node + 1) for node in range(nodes + 2)]
    graph = Graph(
        primitive=np.array(kinds, dtype=np.uint8),
        edges=np.array([*chain, *((node, node + 2) for node in range(1, nodes))], dtype=np.int32),
        shape=shape,
        param=("", "conv.weight", *[""] * nodes, "head.weight"),
    )
    assert flattened_inputs(graph) == {nodes + 2: (8, 2)}


def test_a_layer_that_reads_the_image_is_left_out() -> None:
    """Nothing in the graph says how many channels an image has."""
    assert found(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.Linear(8, 10))) == {}


@pytest.mark.parametrize("fields", [{}, LOW_RANK])
def test_a_kernel_repeats_by_channels(fields: dict[str, Any], make_ghn: Callable[..., GHN]) -> None:
    """Published: by columns, so that channels 9 columns apart share weights at other pixels."""
    torch.manual_seed(0)
    graph = trace(Flattening(), image_size=16)
    batch = GraphBatch.from_graphs([graph])
    kernels = make_ghn(**SIZES, **fields, flattened="kernels")
    weight = kernels(batch).parameters[0]["hidden.weight"]
    assert weight.shape == (20, 108)
    if not fields:
        by_channel = weight.view(20, 12, 3, 3)
        torch.testing.assert_close(by_channel[:, 8:], by_channel[:, :4])
        torch.testing.assert_close(by_channel[8:16], by_channel[:8])
        assert len(by_channel[0, 0].unique()) == 9
        columns = kernels.with_flattened("columns")(batch).parameters[0]["hidden.weight"]
        torch.testing.assert_close(columns[:, 8:104], columns[:, :8].repeat(1, 12))


@pytest.mark.parametrize("fields", [{}, LOW_RANK])
@pytest.mark.parametrize("hidden", [20, None])
def test_prediction_in_place_is_that_of_training(
    fields: dict[str, Any],
    hidden: int | None,
    make_ghn: Callable[..., GHN],
    predicted_in_place: Callable[..., dict[str, Tensor]],
) -> None:
    """Of a hidden layer and of a class head."""
    torch.manual_seed(0)
    ghn = make_ghn(**SIZES, **fields, flattened="kernels")
    model = Flattening(hidden=hidden)
    graph = trace(model, image_size=16)
    expected = predicted_in_place(ghn, model, graph)
    expected[f"{'hidden' if hidden else 'head'}.weight"].sum().backward()
    assert ghn.tensors.block.weight.grad is not None


def test_a_file_says_it_only_where_it_is_not_as_published(
    tmp_path: Path, make_ghn: Callable[..., GHN]
) -> None:
    kernels = make_ghn(**SIZES, flattened="kernels")
    kernels.save_pretrained(tmp_path / "kernels")
    assert from_pretrained(tmp_path / "kernels").config.flattened == "kernels"
    assert "flattened" not in kernels.with_flattened("columns").config.to_dict()
    for name in ("a.pt", "a.safetensors"):
        with pytest.raises(UnsupportedFormatError, match="has flattened = kernels, which released"):
            convert(tmp_path / "kernels", tmp_path / name, released=True)


def test_the_other_way_has_the_same_weights(make_ghn: Callable[..., GHN]) -> None:
    ghn = make_ghn(**SIZES).train()
    ghn.metadata = {"images": "digits"}
    other = ghn.with_flattened("kernels").eval()
    assert other.config == ghn.config.model_copy(update={"flattened": "kernels"})
    assert other.metadata == ghn.metadata
    assert other.with_flattened("kernels") is other
    assert not other.with_flattened("columns").training
    for a, b in zip(ghn.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_word_for_the_way_is_refused(make_ghn: Callable[..., GHN]) -> None:
    with pytest.raises(ConfigError, match="flattened is 'rows'; use one of columns, kernels"):
        make_ghn(**SIZES).with_flattened("rows")  # type: ignore[arg-type]
