"""What a hypernetwork would predict of a network, without predicting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from ghn.graph import Graph
from ghn.models.config import GHNConfig
from ghn.models.decoding.plan import plan
from ghn.models.hypernetwork import GHN
from ghn.models.prediction import predicted_part
from ghn.predict.protocol import Shapes, Skipped, Target, Written
from ghn.predict.report import Report
from ghn.predict.target import Target as Network
from ghn.tracing.extensions import Extensions
from ghn.tracing.run import trace


def coverage(
    model: nn.Module,
    hypernetwork: GHN | GHNConfig | None = None,
    graph: Graph | None = None,
    *,
    extensions: Extensions = (),
    example_inputs: Any = None,
    keep_head: bool = False,
) -> Report:
    """The report that `GHN.predict` would give for `model`, but for notes on how far computed
    weights are from their prediction: nothing is computed, and the network, which may be on the
    meta device, is left alone.

    Args:
        model: any network.
        hypernetwork: or its configuration; by default GHN-3 for 1000 classes.
        graph: of the network; by default it is traced.
        extensions: of tracing (`ghn.trace`), where there is no graph.
        example_inputs: for tracing.
        keep_head: whether the last layer keeps its values.

    Raises:
        ConfigError: `model` is no network, or there is no such extension.
        InvalidGraphError: the graph does not belong to the model.
        TraceError: the model cannot be traced.
    """
    planner = _Planner(hypernetwork or GHNConfig())
    if graph is None and extensions and isinstance(model, nn.Module):
        graph = trace(model, example_inputs, image_size=planner.image_size, extensions=extensions)
    network = Network.of(planner, model, graph, example_inputs, keep_head, strict=False)
    network.planned = True
    network.allocate = lambda parameter: torch.empty_like(parameter, device="meta")
    shapes = {name: tuple(parameter.shape) for name, parameter in network.parameters.items()}
    skipped = planner.write(
        [network.graph],
        lambda _, name: network.tensor(name),
        lambda _, name, tensor, part: network.wrote(name, tensor, part),
        heads=not keep_head,
        shapes=[shapes],
    )
    for item in skipped:
        network.skip.setdefault(item.name, item.reason)
    network.finish()
    return network.report()


@dataclass(frozen=True)
class _Planner:
    """Says what would be written, and writes nothing."""

    of: GHN | GHNConfig

    device = torch.device("meta")
    heads = 1

    @property
    def config(self) -> GHNConfig:
        return self.of if isinstance(self.of, GHNConfig) else self.of.config

    @property
    def num_classes(self) -> int:
        return self.config.num_classes

    @property
    def metadata(self) -> dict[str, Any]:
        return {} if isinstance(self.of, GHNConfig) else self.of.metadata

    @property
    def image_size(self) -> int:
        return self.of.image_size

    def write(
        self,
        graphs: Sequence[Graph],
        target: Target,
        written: Written | None = None,
        *,
        heads: bool = True,
        shapes: Sequence[Shapes] | None = None,
    ) -> tuple[Skipped, ...]:
        """Asks for every tensor and tells of it."""
        planned = plan(graphs, [0] * len(graphs), self.config, heads=heads, shapes=shapes)
        for group in (*planned.tensors, *planned.vectors):
            both = (*group.names, *group.biases)
            for graph, name in zip(cycle(group.graphs), both, strict=False):
                tensor: Tensor | None = target(graph, name)
                if tensor is not None and written is not None:
                    written(graph, name, tensor, predicted_part(tensor, group))
        return planned.skipped
