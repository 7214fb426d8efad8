"""What is to be decoded for a batch of graphs, grouped so that each group is a handful of array
operations.

A parameter's kind decides its decoder, its shape the slice of the decoder that is needed and how it
is tiled. All parameters of the batch with the same kind and shape make a group, whatever network
they belong to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from ghn.graph import Graph, Primitive
from ghn.graph.flattening import flattened_inputs
from ghn.models.config import GHNConfig
from ghn.models.decoding.bases import BESIDE, Pattern
from ghn.predict.protocol import Shapes, Skipped


class Kind(Enum):
    """How a parameter is decoded."""

    tensor = "tensor"  # weights of linear layers and convolutions
    class_weight = "class weight"  # the last layer's weight: decoded, then mapped to classes
    position = "position"  # positional encodings: never rescaled
    norm = "norm"  # weight and bias of a normalisation layer, from one node
    bias = "bias"
    class_bias = "class bias"


TENSOR_KINDS = (Kind.tensor, Kind.class_weight, Kind.position)
_NORMS = (Primitive.bn, Primitive.ln)


@dataclass(frozen=True, eq=False)
class Group:
    """G parameters of one kind and one shape.

    Attributes:
        kind: how they are decoded.
        shape: their shape; of a flat one that of the kernel it is taken for.
        nodes: for each the row of its node among the embeddings of all nodes.
        graphs: for each the index of its graph.
        names: for each its name in the state dict of its network.
        channels: (out, in) channels that are decoded; the rest is tiled.
        window: ((y0, y1), (x0, x1)), the part of the decoder's spatial grid that is decoded.
        scale: what a tensor is multiplied with (fan-in normalisation).
        flat: whether they are matrices whose columns are channels times the pixels of a map.
        base: what is added to them.
        columns: for each of their columns the one of the tiled block that it takes; None: its own.
        biases: for each the name of the bias that comes with it; empty where none does.
    """

    kind: Kind
    shape: tuple[int, ...]
    nodes: list[int]
    graphs: list[int]
    names: list[str]
    channels: tuple[int, int]
    window: tuple[tuple[int, int], tuple[int, int]]
    scale: float
    flat: bool
    base: Pattern | None = None
    columns: tuple[int, ...] | None = None
    biases: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def window_size(self) -> tuple[int, int]:
        """Height and width of the decoded window."""
        (y0, y1), (x0, x1) = self.window
        return y1 - y0, x1 - x0

    @cached_property
    def kernel(self) -> tuple[int, int]:
        """Height and width of the kernel; larger than the window only if the kernel is larger than
        the whole grid.
        """
        return kernel_size(self.kind, self.shape)

    @property
    def positions(self) -> int:
        """Spatial positions that are decoded for each parameter."""
        height, width = self.window_size
        return height * width


@dataclass(frozen=True, eq=False)
class Plan:
    """All groups of a batch of graphs: those of tensors and those of vectors."""

    tensors: tuple[Group, ...]
    vectors: tuple[Group, ...]
    skipped: tuple[Skipped, ...]


def plan(
    graphs: Sequence[Graph],
    offsets: Sequence[int],
    config: GHNConfig,
    *,
    heads: bool = True,
    shapes: Sequence[Shapes] | None = None,
) -> Plan:
    """Groups the parameters of `graphs`.

    Args:
        graphs: the networks.
        offsets: for each graph the row of its node 0 among the embeddings of all nodes.
        config: of the hypernetwork.
        heads: whether to predict the last layers of the networks.
    """
    members: dict[_Same, list[tuple[int, int, str]]] = {}
    skipped: list[Skipped] = []
    for b, graph in enumerate(graphs):
        head = graph.head
        # A shared parameter has a node per use: the last one decides.
        last = {name: node for node, name in enumerate(graph.param) if name}
        primitive, sizes = graph.primitive.tolist(), graph.shape.tolist()
        maps = flattened_inputs(graph) if config.flattened == "kernels" else {}
        seeing = _seeing(graph) if config.base == "identity" else set()
        known = shapes[b] if shapes else {n: tuple(filter(None, sizes[i])) for n, i in last.items()}
        for name, node in last.items():
            shape = known[name]
            if node in head and not heads:
                skipped.append(Skipped(b, name, shape, "class head, kept on request"))
                continue
            if flat := node in maps:
                channels, side = maps[node]
                shape = (shape[0], channels, side, side)
            kind = _kind(primitive[node], shape, node in head)
            if kind is Kind.position and len(shape) == 2 and config.decoder == "low-rank":
                kind = Kind.tensor  # a table of embeddings: factors need no square of positions
            if isinstance(kind, str):
                skipped.append(Skipped(b, name, shape, kind))
            else:
                base = _pattern(kind, shape, node in seeing, config)
                columns = _columns(graph, name, shape) if config.shuffled == "channels" else None
                # what a norm calls its bias may be another parameter, a table of positions
                biased = kind is Kind.norm and known.get(_bias_name(name), shape) == shape
                same = kind, shape, flat, base, columns, biased
                members.setdefault(same, []).append((offsets[b] + node, b, name))
    groups = [_group(*same, group, config) for same, group in members.items()]
    tensors = tuple(group for group in groups if group.kind in TENSOR_KINDS)
    vectors = tuple(group for group in groups if group.kind not in TENSOR_KINDS)
    return Plan(tensors, vectors, tuple(skipped))


_Same = tuple[Kind, tuple[int, ...], bool, Pattern | None, tuple[int, ...] | None, bool]
"""What parameters of a group have in common: kind, shape, `flat`, `base`, `columns` and whether
there are `biases`.
"""


def _bias_name(weight_name: str) -> str:
    """The name of the bias of the norm layer whose weight has that name."""
    return weight_name.removesuffix("weight") + "bias"


def _columns(graph: Graph, name: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """For each column of a parameter the one that stands for the channel that it reads."""
    if (read := graph.columns.get(name)) is None:
        return None
    return tuple((read % shape[1]).tolist())


def _seeing(graph: Graph) -> set[int]:
    """Nodes that read the network's input."""
    sources, targets = graph.edges.T
    return set(targets[graph.primitive[sources] == Primitive.input].tolist())


def _pattern(kind: Kind, shape: tuple[int, ...], sees: bool, config: GHNConfig) -> Pattern | None:
    """What is added to a parameter; `sees`: whether its layer reads the network's input."""
    if config.base == "zero" or kind is not Kind.tensor:
        return None
    return Pattern.frequencies if sees and len(shape) > 2 else Pattern.identity


def _kind(primitive: int, shape: tuple[int, ...], head: bool) -> Kind | str:
    """The kind of a parameter, or the reason why there is none."""
    if primitive == Primitive.bias:
        if len(shape) == 1:
            return Kind.class_bias if head else Kind.bias
        return f"a bias with {len(shape)} dimensions"
    if primitive in _NORMS:
        return (
            Kind.norm if len(shape) == 1 else f"a normalisation weight with {len(shape)} dimensions"
        )
    if primitive == Primitive.pos_enc:
        return (
            Kind.position
            if len(shape) >= 2
            else f"a positional encoding with {len(shape)} dimensions"
        )
    if len(shape) < 2:
        return f"a weight with {len(shape)} dimensions"
    return Kind.class_weight if head else Kind.tensor


def kernel_size(kind: Kind, shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a parameter's kernel, or of the grid of a positional encoding."""
    if kind is Kind.position and len(shape) < 4:
        side = math.isqrt(shape[-2])
        return side, side
    if len(shape) == 5:  # depth and height as one, as the node has them
        return shape[2] * shape[3], shape[4]
    height, width = (*shape[2:], 1, 1)[:2]
    return height, width


def _group(
    kind: Kind,
    shape: tuple[int, ...],
    flat: bool,
    base: Pattern | None,
    columns: tuple[int, ...] | None,
    biased: bool,
    members: list[tuple[int, int, str]],
    config: GHNConfig,
) -> Group:
    nodes, graphs, names = (list(column) for column in zip(*members, strict=True))
    low_rank = config.decoder == "low-rank"
    height, width = kernel_size(kind, shape) if kind in TENSOR_KINDS else (2, 1)
    # Rows and columns that a decoder has: of a factor, which a vector shares with another, or of a
    # block.
    limit, limit_in = (
        (max(1, config.factor_length // height), max(1, config.factor_length // width))
        if low_rank
        else (config.decoder_channels, config.decoder_channels)
    )
    window = ((0, 1), (0, 1))
    channels = (min(shape[0], limit), 1)
    scale = 1.0
    if kind in TENSOR_KINDS:
        inputs = shape[-1] if kind is Kind.position and len(shape) < 4 else shape[1]
        whole = shape[0] if low_rank else limit  # tiled decoders map all channels to classes
        outputs = {Kind.class_weight: whole, Kind.position: 1 if len(shape) < 4 else shape[0]}.get(
            kind, shape[0]
        )
        channels = (min(outputs, limit), min(inputs, limit_in))
        window = (_span(height, config), _span(width, config))
        if config.normalize and kind is not Kind.position:
            # No ReLU follows depthwise convolutions nor the first of a pair of 1 x k and k x 1
            # (section A.1).
            no_relu = len(shape) > 2 and (shape[1] == 1 or height < width)
            scale = math.sqrt((1 if no_relu else 2) / math.prod(shape[1:]))
        beside = BESIDE[config.base]
        scale *= {Kind.tensor: beside.difference, Kind.class_weight: beside.head}.get(kind, 1.0)
    biases = [_bias_name(name) for name in names] if biased else []
    return Group(
        kind, shape, nodes, graphs, names, channels, window, scale, flat, base, columns, biases
    )


def _span(size: int, config: GHNConfig) -> tuple[int, int]:
    """First and last + 1 position of the decoder's grid that make a kernel side of `size`."""
    grid = config.decoder_kernel
    if config.window == "corner":
        return 0, min(size, grid)
    middle = grid // 2
    return max(0, middle - size // 2), min(grid, middle + (size + 1) // 2)
