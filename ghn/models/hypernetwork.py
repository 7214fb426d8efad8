"""Graph hypernetworks: from the graph of a network to its parameters.

Shape legend: B graphs, N nodes, D hidden features.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Self, TypedDict, Unpack, overload

import torch
from torch import Tensor, nn

from ghn.graph import Graph
from ghn.meta import without_values
from ghn.models.batch import GraphBatch
from ghn.models.config import Flattened, GHNConfig, Shuffled
from ghn.models.decoding.bases import add_base
from ghn.models.decoding.decoders import decoders, last_layers
from ghn.models.decoding.plan import Group, Plan, plan
from ghn.models.decoding.stream import stream
from ghn.models.decoding.tiling import write_all
from ghn.models.embedding import NodeEmbedding
from ghn.models.first_values import draw_small
from ghn.models.hub import Hub
from ghn.models.message_passing.kinds import message_passing
from ghn.models.prediction import Prediction, predicted_part
from ghn.models.sending import send_list
from ghn.predict.inplace import Frozen, StateDict, predict_in_place, predict_state_dict
from ghn.predict.protocol import Shapes, Skipped, Target, Written
from ghn.predict.report import Report


class Options(TypedDict, total=False):
    """Keyword arguments of `GHN.initialize`, as in `ghn.predict.predict_in_place`."""

    keep_head: bool
    frozen: Frozen
    strict: bool
    example_inputs: Any


class GHN(nn.Module, Hub):
    """A graph hypernetwork: GHN-1, GHN-2, GHN-3 or the MLP baseline, as `config` says.

    Called with a network, it predicts the network's parameters in place (`initialize`); called with
    a batch of graphs, it is the differentiable function that training uses (`forward`), also in
    DistributedDataParallel and `torch.compile`. `predict` gives a state dict instead.

    Attributes:
        config: what it is.
        metadata: where it comes from and how it was trained (`ghn.from_pretrained`); saved with it
            on request.
        reports: of the last `initialize`, one per network: what was not predicted and why.
        autocast_decoders: whether decoders of `forward` compute in the precision of
            `torch.autocast`, too; bfloat16 at most: they overflow in float16.
    """

    autocast_decoders = False

    def __init__(self, config: GHNConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GHNConfig()
        self.reports: list[Report] = []
        self.metadata: dict[str, Any] = {}
        self.embedding = NodeEmbedding(config)
        self.message_passing: nn.Module = message_passing(config)
        self.norm = nn.LayerNorm(config.hidden) if config.layer_norm else nn.Identity()
        self.tensors, self.vectors = decoders(config)
        if config.window == "center" and self.device.type != "meta":
            draw_small(self, last_layers(self.tensors, self.vectors))

    @classmethod
    def empty(cls, config: GHNConfig) -> Self:
        """One with parameters on the meta device, for `load_state_dict(..., assign=True)`."""
        with without_values():
            return cls(config)

    def with_flattened(self, flattened: Flattened) -> Self:
        """This hypernetwork, or one with the same weights that takes layers behind flattened maps
        as `flattened` says (`GHNConfig.flattened`); both then share them.
        """
        return self._taking(flattened=flattened)

    def with_shuffled(self, shuffled: Shuffled) -> Self:
        """This hypernetwork, or one with the same weights that takes what reads shuffled channels
        as `shuffled` says (`GHNConfig.shuffled`); both then share them.
        """
        return self._taking(shuffled=shuffled)

    def _taking(self, **fields: str) -> Self:
        """One with the same weights and other fields of the configuration, on which no weight
        depends.
        """
        config = GHNConfig.from_dict(self.config.to_dict() | fields)
        if config == self.config:
            return self
        other = type(self).empty(config)
        other.load_state_dict(self.state_dict(), assign=True)
        other.to(self.device)  # buffers that no state dict has
        other.metadata = self.metadata
        return other.train(self.training)

    @property
    def num_classes(self) -> int:
        """Classes of the data set that it was trained on."""
        return self.config.num_classes

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that it was trained on: as its metadata has it, or else 32
        or 224, which its decoder tells.
        """
        size = self.metadata.get("image_size")
        return size if isinstance(size, int) else self.config.image_size

    @property
    def heads(self) -> int:
        """Attention heads, of which each holds a logit for every pair of nodes."""
        return self.config.heads

    @property
    def device(self) -> torch.device:
        """Where the hypernetwork is."""
        return self.tensors.block.weight.device

    def embed(self, batch: GraphBatch) -> Tensor:
        """(B, N, D) node embeddings after message passing and normalisation; those of padding are
        arbitrary.
        """
        batch = batch.to(self.device)
        h_BND: Tensor = self.message_passing(self.embedding(batch), batch)
        return self.norm(h_BND)  # type: ignore[no-any-return]

    def forward(
        self, graphs: GraphBatch, *, heads: bool = True, shapes: Sequence[Shapes] | None = None
    ) -> Prediction:
        """Predicts the parameters of all networks of a batch together. Differentiable.

        Norm layers without a bias get an entry all the same, which `functional_call` does not need.
        The rows of a positional encoding that stand for a class token are zero: only `initialize`
        and `predict` know their old values.

        Args:
            graphs: of the networks.
            heads: whether to predict the networks' last layers.
            shapes: of each network's parameters, by name, where the graph has others: it has room
                for four sizes, so a kernel of three dimensions is folded there.
        """
        h_BND = self.embed(graphs)
        if heads and shapes is None:
            return self._decode(h_BND, len(graphs.graphs), graphs.plan_of(self.config))
        return self.decode_embeddings(
            h_BND, graphs.graphs, graphs.offsets, heads=heads, shapes=shapes
        )

    def decode_embeddings(
        self,
        h_BND: Tensor,
        graphs: Sequence[Graph],
        offsets: Sequence[int],
        *,
        heads: bool = True,
        shapes: Sequence[Shapes] | None = None,
    ) -> Prediction:
        """`forward` from node embeddings that exist.

        Args:
            h_BND: node embeddings.
            graphs: of the networks.
            offsets: for each graph the row of its node 0 in the flattened embeddings.
            heads: whether to predict the networks' last layers.
            shapes: as for `forward`.
        """
        planned = plan(graphs, offsets, self.config, heads=heads, shapes=shapes)
        return self._decode(h_BND, len(graphs), planned)

    def _decode(self, h_BND: Tensor, n_networks: int, planned: Plan) -> Prediction:
        prediction = Prediction(n_networks, planned.skipped, h_BND)
        full = torch.autocast(h_BND.device.type, enabled=False)
        dtype = self.tensors.block.weight.dtype
        with nullcontext() if self.autocast_decoders else full:
            h_ND = h_BND.flatten(0, 1).to(dtype)
            for group, w in self.tensors(h_ND, planned):
                prediction.add(group, w.to(dtype))
            for group, w, b in self.vectors(h_ND, planned):
                prediction.add(group, w.to(dtype))
                if b is not None and group.biases:
                    prediction.add(group, b.to(dtype), group.biases)
        return prediction

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

        def tensors(group: Group, names: Sequence[str]) -> tuple[list[Tensor], list[int]]:
            """What to write to, and which parameters of the group that is for."""
            parts, wanted = [], []
            for i, (graph, name) in enumerate(zip(group.graphs, names, strict=True)):
                if (tensor := target(graph, name)) is not None:
                    parts.append(part := predicted_part(tensor, group))
                    wanted.append(i)
                    if written is not None:
                        written(graph, name, tensor, part)
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
            where = {group: tensors(group, group.names) for group in planned.tensors}
            for group, first, w in stream(self.tensors, h_ND, planned):
                put(*where[group], w, None if first is None else (first, group.channels[0]))
            for group, (parts, _) in where.items():
                if group.base is not None:
                    for part in parts:
                        add_base(group.base, part)
                if group.columns is not None:
                    devices = {part.device for part in parts}
                    order = {d: send_list(group.columns, d) for d in devices}
                    for part in parts:
                        part.copy_(part.index_select(1, order[part.device]))
            for group, w, b in self.vectors(h_ND, planned):
                put(*tensors(group, group.names), w)
                if b is not None and group.biases:
                    put(*tensors(group, group.biases), b)
        return planned.skipped

    def predict(
        self,
        model: nn.Module,
        graph: Graph | None = None,
        *,
        keep_head: bool = False,
        strict: bool = False,
        example_inputs: Any = None,
    ) -> StateDict:
        """The predicted parameters of `model`, left alone: `ghn.predict.predict_state_dict`."""
        return predict_state_dict(
            self, model, graph, keep_head=keep_head, strict=strict, example_inputs=example_inputs
        )

    @overload
    def initialize(
        self, model: nn.Module, graph: Graph | None = None, **options: Unpack[Options]
    ) -> nn.Module: ...

    @overload
    def initialize(
        self,
        model: Sequence[nn.Module],
        graph: Sequence[Graph] | None = None,
        **options: Unpack[Options],
    ) -> Sequence[nn.Module]: ...

    def initialize(
        self,
        model: nn.Module | Sequence[nn.Module],
        graph: Graph | Sequence[Graph] | None = None,
        **options: Unpack[Options],
    ) -> nn.Module | Sequence[nn.Module]:
        """Predicts the parameters of a network, or of several together, in place; returns what it
        was given.

        `self.reports` then says, for each network, what was not predicted and why. Options and
        errors are those of `ghn.predict.predict_in_place`.
        """
        models: Any = model if isinstance(model, (list, tuple)) else [model]
        graphs = [graph] if isinstance(graph, Graph) else graph
        self.reports = predict_in_place(self, models, graphs, **options)
        return model

    @overload
    def __call__(self, model: GraphBatch, *, heads: bool = True) -> Prediction: ...

    @overload
    def __call__(
        self, model: nn.Module, graph: Graph | None = None, **options: Unpack[Options]
    ) -> nn.Module: ...

    @overload
    def __call__(
        self,
        model: Sequence[nn.Module],
        graph: Sequence[Graph] | None = None,
        **options: Unpack[Options],
    ) -> Sequence[nn.Module]: ...

    def __call__(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """`forward` of a batch of graphs, hooks included; `initialize` of one or more networks."""
        if isinstance(model, GraphBatch):
            return super().__call__(model, *args, **kwargs)
        return self.initialize(model, *args, **kwargs)
