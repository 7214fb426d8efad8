"""What the prediction for networks that exist needs to know of a hypernetwork."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ghn.graph import Graph

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of a network's parameters by name."""

Target = Callable[[int, str], Tensor | None]
"""Gives for (index of the graph, parameter name) the tensor to write to, or None to leave it
out.
"""

Written = Callable[[int, str, Tensor, Tensor], None]
"""Is told (index of the graph, parameter name, tensor, the view of it that was written)."""


@dataclass(frozen=True)
class Skipped:
    """A parameter that has a node but no decoder."""

    graph: int
    name: str
    shape: tuple[int, ...]
    reason: str


class Hypernetwork(Protocol):
    """Predicts the parameters of networks from their graphs; `ghn.models.GHN` is one."""

    @property
    def device(self) -> torch.device:
        """Where it is."""

    @property
    def num_classes(self) -> int:
        """Classes of the data set that it was trained on."""

    @property
    def image_size(self) -> int:
        """Side of the images that it was trained on, in pixels."""

    @property
    def metadata(self) -> dict[str, Any]:
        """Where it comes from, how it was trained, and what was measured of it."""

    @property
    def heads(self) -> int:
        """Attention heads, of which each holds a logit for every pair of nodes."""

    def write(
        self,
        graphs: Sequence[Graph],
        target: Target,
        written: Written | None = None,
        *,
        heads: bool = True,
        shapes: Sequence[Shapes] | None = None,
    ) -> tuple[Skipped, ...]:
        """Predicts straight into tensors that exist (`ghn.models.GHN.write`)."""
