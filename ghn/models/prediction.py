"""What a hypernetwork predicts for a batch of networks.

Shape legend: B graphs, N nodes, D hidden features, G parameters of a group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ghn.models.decoding.bases import base
from ghn.models.decoding.plan import Group, Kind
from ghn.models.decoding.tiling import repeats_evenly, tile
from ghn.models.sending import send_list
from ghn.predict.protocol import Skipped

Penalty = Literal["norm", "square"]


@dataclass(frozen=True, eq=False)
class Stack:
    """Predicted parameters of one shape, whichever networks they belong to, as one tensor: one call
    handles them all.

    Attributes:
        tensor: (G, *shape); kernels are kept in channels-last order, in which networks use them and
            their gradients come back.
        graphs: for each the index of its network.
        names: for each its name in the state dict of its network.
    """

    tensor: Tensor
    graphs: Sequence[int]
    names: Sequence[str]


@dataclass(eq=False)
class Prediction:
    """Predicted parameters of a batch of networks.

    Attributes:
        n_networks: how many there are.
        skipped: parameters that have a node but no decoder.
        embeddings_BND: the node embeddings that were decoded.
        stacks: the parameters, by shape.
    """

    n_networks: int
    skipped: tuple[Skipped, ...]
    embeddings_BND: Tensor
    stacks: list[Stack] = field(default_factory=list)
    _blocks: list[tuple[list[int], Tensor, float]] = field(default_factory=list, repr=False)

    @cached_property
    def parameters(self) -> list[dict[str, Tensor]]:
        """For each network its parameters by name, differentiable."""
        return self.by_network([stack.tensor.unbind(0) for stack in self.stacks])

    def by_network(self, members: Sequence[Sequence[Tensor]]) -> list[dict[str, Tensor]]:
        """For each network what belongs to its parameters, by their names.

        Args:
            members: for each stack a tensor for each of its parameters.
        """
        found: list[dict[str, Tensor]] = [{} for _ in range(self.n_networks)]
        for stack, tensors in zip(self.stacks, members, strict=True):
            for graph, name, tensor in zip(stack.graphs, stack.names, tensors, strict=True):
                found[graph][name] = tensor
        return found

    def add(self, group: Group, w: Tensor, names: Sequence[str] = ()) -> None:
        """Adds the (G, ...) blocks of a group, under the group's names or others; they are tiled,
        added to the group's base and put in its order of columns here. Penalties are of the blocks
        alone.
        """
        shape = predicted_shape(group)
        last = len(shape) == 4 and not group.flat  # channels last
        tiled = (
            tile(w.permute(0, 1, 3, 4, 2), (shape[0], *shape[2:], shape[1]))
            if last
            else tile(w, shape)
        )
        if repeats_evenly(w.shape[1:], shape):
            self._blocks.append((group.graphs, w, math.prod(shape) / math.prod(w.shape[1:])))
        else:
            self._blocks.append((group.graphs, tiled, 1.0))
        if group.base is not None:
            own = base(group.base, shape, tiled.device).to(tiled.dtype)
            tiled = tiled + (own.permute(0, 2, 3, 1) if last else own)
        if group.columns is not None:
            order = send_list(group.columns, tiled.device)
            tiled = tiled.index_select(-1 if last else 2, order)
        # rows of a positional encoding that are not predicted, which come first
        if shape != group.shape:
            tiled = F.pad(tiled, (0, 0, group.shape[-2] - shape[-2], 0))
        if group.flat:
            tiled = tiled.flatten(2)
        elif last:
            tiled = tiled.permute(0, 1, 4, 2, 3)
        self.stacks.append(Stack(tiled, group.graphs, names or group.names))

    def penalty(self, kind: Penalty = "norm") -> Tensor:
        """(B,) for each network the sum over its predicted tensors of the L2 norm (eq. 10) or its
        square (table 5).

        A tensor that repeats a block evenly has the block's norm times the root of the number of
        repeats, so most norms cost a fraction of the parameters they are of.
        """
        values, graphs = [], []
        for members, w, repeats in self._blocks:
            flat = w.flatten(1)
            if kind == "norm":
                values.append(torch.linalg.vector_norm(flat, dim=1) * math.sqrt(repeats))
            else:
                values.append(flat.square().sum(1) * repeats)
            graphs += members
        total = self.embeddings_BND.new_zeros(self.n_networks, dtype=torch.float32)
        if not values:
            return total
        return total.index_add(0, send_list(graphs, total.device), torch.cat(values).float())


def predicted_shape(group: Group) -> tuple[int, ...]:
    """The shape of what is predicted of a group's parameters: all, but of a positional encoding
    (..., positions, channels) only as many rows as make a square grid; the first ones, class
    tokens, are not.
    """
    if group.kind is not Kind.position or len(group.shape) == 4:
        return group.shape
    return (*group.shape[:-2], group.kernel[0] * group.kernel[1], group.shape[-1])


def predicted_part(tensor: Tensor, group: Group) -> Tensor:
    """The part of a parameter that `predicted_shape` describes; of a flat one a view of all."""
    shape = predicted_shape(group)
    if group.flat:
        return tensor.view(shape)  # dividing a dimension needs no copy, whatever the strides
    return (
        tensor
        if shape == group.shape
        else tensor.narrow(-2, group.shape[-2] - shape[-2], shape[-2])
    )
