"""Each quirk of the reference's graphs, and its switch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from torch import Tensor, nn

from ghn.architectures import build
from ghn.graph import Graph, Primitive
from ghn.tracing import trace

Describe = Callable[[Graph], list[str]]


def test_fused_attention_has_no_node_in_the_reference() -> None:
    model = build("vit_b_32", device="meta")
    assert (trace(model).primitive == Primitive.msa).sum() == 0
    right = trace(model, reference_compatible=False)
    assert (right.primitive == Primitive.msa).sum() == 12
    node = np.flatnonzero(right.primitive == Primitive.msa)[0]
    before = right.edges[right.edges[:, 1] == node, 0]
    after = right.edges[right.edges[:, 0] == node, 1]
    assert [right.param[i].rsplit(".", 1)[-1] for i in before] == ["in_proj_bias"]
    assert [right.param[i].rsplit(".", 2)[-2] for i in after] == ["out_proj"]


@pytest.mark.parametrize("reference_compatible", [False, True])
def test_attention_whose_weights_are_asked_for_keeps_its_node(reference_compatible: bool) -> None:
    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)[:, None]
            out, _ = self.attention(x, x, x)
            return out  # type: ignore[no-any-return]

    graph = trace(Weights(), reference_compatible=reference_compatible)
    assert (graph.primitive == Primitive.msa).sum() == 1


class ConvolutionalHead(nn.Module):
    def __init__(self, kernel: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3)
        self.head = nn.Conv2d(8, 5, kernel, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu()).relu().mean((2, 3))  # type: ignore[no-any-return]


def test_pooling_comes_before_a_convolutional_head(describe: Describe) -> None:
    graph = trace(ConvolutionalHead())
    graph.validate()
    names = ["input", "body.weight", "body.bias", "glob_avg", "head.weight", "head.bias"]
    assert describe(graph) == sorted(f"{a} -> {b}" for a, b in pairwise(names))
    assert graph.param_shape(4) == (5, 8)  # read as a linear layer
    right = trace(ConvolutionalHead(), reference_compatible=False)
    right.validate()
    names = ["input", "body.weight", "body.bias", "head.weight", "head.bias", "glob_avg"]
    assert describe(right) == sorted(f"{a} -> {b}" for a, b in pairwise(names))
    assert right.param_shape(3) == (5, 8, 1, 1)


def test_squeezenet() -> None:
    graph = trace(build("squeezenet1_1", device="meta"))
    assert graph.param[-2:] == ("classifier.1.weight", "classifier.1.bias")
    assert graph.primitive[-3] == Primitive.glob_avg


@pytest.mark.parametrize(
    "model",
    [
        build("resnet18", device="meta"),
        ConvolutionalHead(kernel=3),
        ConvolutionalHead(bias=False),
        nn.Conv2d(3, 4, 1),
    ],
)
def test_other_networks_are_left_as_they_are(model: nn.Module) -> None:
    both = [trace(model, reference_compatible=compatible) for compatible in (False, True)]
    assert both[0].to_json_dict() == both[1].to_json_dict()
