"""Random networks of which the graph is known, because network and graph are made side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import networkx as nx
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.tracing import trace

CHANNELS = 2

# A step makes a new value from one or two earlier ones, which it names by numbers taken modulo how
# many there are.
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["conv", "conv", "norm", "sum", "concat", "pool", "relu", "relu_", "scale", "split"]
        ),
        st.integers(0, 30),
        st.integers(0, 30),
    ),
    min_size=1,
    max_size=14,
)


class Program(nn.Module):
    """Runs a list of steps; every value has `CHANNELS` channels."""

    def __init__(self, program: Sequence[tuple[str, int, int]]) -> None:
        super().__init__()
        self.program = program
        for i, (kind, _, _) in enumerate(program):
            if kind in ("conv", "norm"):
                layer = (
                    nn.Conv2d(CHANNELS, CHANNELS, 1) if kind == "conv" else nn.BatchNorm2d(CHANNELS)
                )
                self.add_module(f"layer{i}", layer)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for i, (kind, first, second) in enumerate(self.program):
            a, b = values[first % len(values)], values[second % len(values)]
            if kind in ("conv", "norm"):
                out = self.get_submodule(f"layer{i}")(a)
            elif kind == "sum":
                out = a + b if i % 2 else a.clone().add_(b)
            elif kind == "concat":
                out = torch.cat([a, b], dim=1)[:, :CHANNELS]
            elif kind == "pool":
                out = F.max_pool2d(a, 3, stride=1, padding=1)
            elif kind == "split":
                out = torch.stack(a.unbind(1), dim=1)
            else:
                out = {
                    "relu": F.relu,
                    "relu_": lambda t: F.relu_(t.clone()),
                    "scale": lambda t: 2.0 * t,
                }[kind](a)
            values.append(out)
        return values[-1]


def expected(program: Sequence[tuple[str, int, int]]) -> nx.DiGraph:
    """The graph by the rules: nodes that the last value depends on, named by kind and parameter."""
    graph: nx.DiGraph = nx.DiGraph()
    graph.add_node("input", label=("input", ""))
    values: list[Any] = ["input"]
    for i, (kind, first, second) in enumerate(program):
        a, b = values[first % len(values)], values[second % len(values)]
        value: Any = a
        if kind == "conv":
            graph.add_node(value := f"w{i}", label=("conv", f"layer{i}.weight"))
            graph.add_edge(a, value)
            graph.add_node(value := f"b{i}", label=("bias", f"layer{i}.bias"))
            graph.add_edge(f"w{i}", value)
        elif kind in ("norm", "pool") or (kind in ("sum", "concat") and a != b):
            primitive = {"norm": "bn", "pool": "max_pool"}.get(kind, kind)
            graph.add_node(
                value := f"{kind}{i}",
                label=(primitive, f"layer{i}.weight" if kind == "norm" else ""),
            )
            graph.add_edge(a, value)
            if kind in ("sum", "concat"):
                graph.add_edge(b, value)
        values.append(value)
    return graph.subgraph(nx.ancestors(graph, values[-1]) | {"input", values[-1]})


@settings(deadline=None, max_examples=150)
@given(steps)
def test_random_networks(program: list[tuple[str, int, int]]) -> None:
    graph = trace(Program(program), torch.empty(2, CHANNELS, 4, 4))
    graph.validate()
    ours = graph.to_networkx()
    for node in ours:
        ours.nodes[node]["label"] = (ours.nodes[node]["primitive"], ours.nodes[node]["param"])
    assert nx.is_isomorphic(
        ours, expected(program), node_match=lambda x, y: x["label"] == y["label"]
    )
