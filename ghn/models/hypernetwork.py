"""Graph hypernetworks: from the graph of a network to its parameters.

Shape legend: B graphs, N nodes, D hidden features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.graph import Graph
from ghn.meta import without_values
from ghn.models.batch import GraphBatch
from ghn.models.config import GHNConfig
from ghn.models.decoding.decoder import TensorDecoder, VectorDecoder
from ghn.models.decoding.plan import Group, Kind, Shapes, Skipped, plan
from ghn.models.decoding.stream import stream
from ghn.models.decoding.tiling import repeats_evenly, tile, write_all
from ghn.models.embedding import NodeEmbedding
from ghn.models.message_passing.gated import MLP, GatedGNN
from ghn.models.message_passing.transformer import EdgeTerm, Transformer
from ghn.predict.inplace import Frozen, StateDict, initialize, predict_state_dict
from ghn.predict.report import Report

Penalty = Literal["norm", "square"]

Target = Callable[[int, str], Tensor | None]
Written = Callable[[int, str, Tensor, Tensor], None]


class Options(TypedDict, total=False):
    """Keyword arguments of `GHN.__call__`, as in `ghn.predict.initialize`."""

    keep_head: bool
    frozen: Frozen
    example_inputs: Any


class GHN(nn.Module):
    """A graph hypernetwork: GHN-1, GHN-2, GHN-3 or the MLP baseline, as `config` says.

    Calling it predicts parameters into a network in place; `predict` leaves the network alone and
    gives a state dict; `decode` is the differentiable function that training uses.

    Attributes:
        config: what it is.
        metadata: where it comes from and how it was trained (`ghn.from_pretrained`); saved with it
            on request.
        reports: of the last call, one per network: what was not predicted and why.
    """

    def __init__(self, config: GHNConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GHNConfig()
        self.reports: list[Report] = []
        self.metadata: dict[str, Any] = {}
        self.embedding = NodeEmbedding(config)
        self.message_passing = _message_passing(config)
        self.norm = nn.LayerNorm(config.hidden) if config.layer_norm else nn.Identity()
        self.tensors = TensorDecoder(config)
        self.vectors = VectorDecoder(config)
        if config.window == "center":
            self._initialize_ghn3()

    @classmethod
    def empty(cls, config: GHNConfig) -> GHN:
        """A hypernetwork whose parameters are on the meta device, for `load_state_dict(...,
        assign=True)`.
        """
        with without_values():
            return cls(config)

    def _initialize_ghn3(self) -> None:
        """Embeddings of norm 1 and small last layers, which keep the first steps of large
        hypernetworks finite.
        """
        if self.device.type == "meta":
            return  # `empty`
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=module.embedding_dim**-0.5)
        for module in self.modules():
            if isinstance(module, EdgeTerm):
                module.reset_distance()
        with torch.no_grad():
            for last in (self.tensors.block, self.tensors.classes, self.vectors.out):
                last.weight /= 5.0
                last.bias.zero_()

    @property
    def device(self) -> torch.device:
        """Where the hypernetwork is."""
        return self.vectors.out.weight.device

    def embed(self, batch: GraphBatch) -> Tensor:
        """(B, N, D) node embeddings after message passing and normalisation; those of padding are
        arbitrary.
        """
        batch = batch.to(self.device)
        h_BND: Tensor = self.message_passing(self.embedding(batch), batch)
        return self.norm(h_BND)  # type: ignore[no-any-return]

    def decode(self, batch: GraphBatch, *, heads: bool = True) -> Prediction:
        """Predicts the parameters of all networks of a batch together. Differentiable.

        Args:
            batch: their graphs.
            heads: whether to predict the networks' last layers.
        """
        h_BND = self.embed(batch)
        n = h_BND.shape[1]
        return self.decode_embeddings(
            h_BND, batch.graphs, range(0, len(batch.graphs) * n, n), heads=heads
        )

    def decode_embeddings(
        self, h_BND: Tensor, graphs: Sequence[Graph], offsets: Sequence[int], *, heads: bool = True
    ) -> Prediction:
        """`decode` from node embeddings that exist.

        Args:
            h_BND: node embeddings.
            graphs: of the networks.
            offsets: for each graph the row of its node 0 in the flattened embeddings.
            heads: whether to predict the networks' last layers.
        """
        planned = plan(graphs, offsets, self.config, heads=heads)
        prediction = Prediction([{} for _ in graphs], planned.skipped, h_BND)
        with torch.autocast(h_BND.device.type, enabled=False):  # decoders overflow half precision
            h_ND = h_BND.flatten(0, 1).to(self.tensors.block.weight.dtype)
            for group, w in self.tensors(h_ND, planned):
                prediction.add(group, w)
            for group, w, b in self.vectors(h_ND, planned):
                prediction.add(group, w)
                if b is not None:
                    prediction.add(group, b, [bias_name(name) for name in group.names])
        return prediction

    def predict_parameters(
        self, batch: GraphBatch, *, heads: bool = True
    ) -> list[dict[str, Tensor]]:
        """For each network of the batch its predicted parameters by name, ready for
        `torch.func.functional_call`.

        Differentiable. Norm layers without a bias get an entry all the same, which the caller
        drops. The rows of a positional encoding that stand for a class token are zero: only
        `predict` knows their old values.
        """
        return self.decode(batch, heads=heads).parameters

    @torch.no_grad()
    def write(
        self,
        graphs: Sequence[Graph],
        target: Target,
        written: Written | None = None,
        *,
        heads: bool = True,
        shapes: Sequence[Shapes] | None = None,
    ) -> tuple[Skipped, ...]:
        """Predicts straight into tensors that exist, of which it holds few decoded blocks at a
        time.

        Args:
            graphs: of the networks.
            target: gives for (index of the graph, parameter name) the tensor to write to, or None
                to leave it out.
            written: is told (index of the graph, parameter name, tensor, the view of it that was
                written).
            heads: whether to predict the networks' last layers.
            shapes: of the parameters of each network, where nodes may have others
                (`ghn.models.decoding.plan.plan`).

        Returns:
            Parameters that have a node but no decoder.
        """
        batch = GraphBatch.from_graphs(graphs)

        def tensors(
            group: Group, name: Callable[[str], str] = str
        ) -> tuple[list[Tensor], list[int]]:
            """What to write to, and which parameters of the group that is for."""
            parts, wanted = [], []
            for i, (graph, key) in enumerate(
                zip(group.graphs, map(name, group.names), strict=True)
            ):
                if (tensor := target(graph, key)) is not None:
                    parts.append(part := _predicted_part(tensor, group))
                    wanted.append(i)
                    if written is not None:
                        written(graph, key, tensor, part)
            return parts, wanted

        def put(
            parts: list[Tensor],
            wanted: list[int],
            w: Tensor,
            part_of: tuple[int, int] | None = None,
        ) -> None:
            if parts:
                write_all(parts, w if len(parts) == len(w) else w[wanted], part_of)

        with torch.autocast(self.device.type, enabled=False):
            h_BND = self.embed(batch)
            n = h_BND.shape[1]
            planned = plan(
                graphs, range(0, len(graphs) * n, n), self.config, heads=heads, shapes=shapes
            )
            h_ND = h_BND.flatten(0, 1)
            where = {group: tensors(group) for group in planned.tensors}
            for group, first, w in stream(self.tensors, h_ND, planned):
                put(*where[group], w, None if first is None else (first, group.channels[0]))
            for group, w, b in self.vectors(h_ND, planned):
                put(*tensors(group), w)
                if b is not None:
                    put(*tensors(group, bias_name), b)
        return planned.skipped

    def predict(
        self,
        model: nn.Module,
        graph: Graph | None = None,
        *,
        keep_head: bool = False,
        example_inputs: Any = None,
    ) -> StateDict:
        """The predicted parameters of `model`, which is left alone: see
        `ghn.predict.predict_state_dict`.
        """
        return predict_state_dict(
            self, model, graph, keep_head=keep_head, example_inputs=example_inputs
        )

    @overload
    def forward(
        self, model: nn.Module, graph: Graph | None = None, **options: Unpack[Options]
    ) -> nn.Module: ...

    @overload
    def forward(
        self,
        model: Sequence[nn.Module],
        graph: Sequence[Graph] | None = None,
        **options: Unpack[Options],
    ) -> Sequence[nn.Module]: ...

    def forward(
        self,
        model: nn.Module | Sequence[nn.Module],
        graph: Graph | Sequence[Graph] | None = None,
        **options: Unpack[Options],
    ) -> nn.Module | Sequence[nn.Module]:
        """Predicts the parameters of a network, or of several together, in place; returns what it
        was given.

        `self.reports` then says, for each network, what was not predicted and why. Options and
        errors are those of `ghn.predict.initialize`.
        """
        models = [model] if isinstance(model, nn.Module) else model
        graphs = [graph] if isinstance(graph, Graph) else graph
        self.reports = initialize(self, models, graphs, **options)
        return model


@dataclass(eq=False)
class Prediction:
    """Predicted parameters of a batch of networks.

    Attributes:
        parameters: for each network its parameters by name.
        skipped: parameters that have a node but no decoder.
        embeddings_BND: the node embeddings that were decoded.
    """

    parameters: list[dict[str, Tensor]]
    skipped: tuple[Skipped, ...]
    embeddings_BND: Tensor
    _blocks: list[tuple[list[int], Tensor, float]] = field(default_factory=list, repr=False)

    def add(self, group: Group, w: Tensor, names: list[str] | None = None) -> None:
        """Adds the (G, ...) blocks of a group, tiled here, under the group's names or others."""
        shape = predicted_shape(group)
        # Kernels in channels-last order, in which networks use them and their gradients come back.
        tiled = (
            tile(w.permute(0, 1, 3, 4, 2), (shape[0], *shape[2:], shape[1]))
            if len(shape) == 4
            else tile(w, shape)
        )
        if repeats_evenly(w.shape[1:], shape):
            self._blocks.append((group.graphs, w, math.prod(shape) / math.prod(w.shape[1:])))
        else:
            self._blocks.append((group.graphs, tiled, 1.0))
        if (
            shape != group.shape
        ):  # rows of a positional encoding that are not predicted, which come first
            tiled = F.pad(tiled, (0, 0, group.shape[-2] - shape[-2], 0))
        for name, graph, tensor in zip(
            names or group.names, group.graphs, tiled.unbind(0), strict=True
        ):
            self.parameters[graph][name] = tensor.permute(0, 3, 1, 2) if len(shape) == 4 else tensor

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
        total = self.embeddings_BND.new_zeros(len(self.parameters), dtype=torch.float32)
        if not values:
            return total
        return total.index_add(
            0, torch.tensor(graphs, device=total.device), torch.cat(values).float()
        )


def _message_passing(config: GHNConfig) -> nn.Module:
    if config.message_passing == "transformer":
        return Transformer(config)
    return (
        GatedGNN(config) if config.message_passing == "gated" else MLP(config.hidden, config.hidden)
    )


def bias_name(weight_name: str) -> str:
    """The name of the bias of the norm layer whose weight has that name."""
    return weight_name.removesuffix("weight") + "bias"


def predicted_shape(group: Group) -> tuple[int, ...]:
    """The shape of what is predicted of a group's parameters: all, but of a positional encoding
    (..., positions, channels) only as many rows as make a square grid; the first ones, class
    tokens, are not.
    """
    if group.kind is not Kind.position or len(group.shape) == 4:
        return group.shape
    return (*group.shape[:-2], group.kernel[0] * group.kernel[1], group.shape[-1])


def _predicted_part(tensor: Tensor, group: Group) -> Tensor:
    """The part of a parameter that `predicted_shape` describes."""
    shape = predicted_shape(group)
    return (
        tensor
        if shape == group.shape
        else tensor.narrow(-2, group.shape[-2] - shape[-2], shape[-2])
    )
