"""The nodes that each operation of the search space adds to a graph.

A parameter's shape is linear in the cell's width C and, in preprocessing, in the widths P0 and P1
of the cell's two inputs. So a node has one of few kinds, and the shapes of any number of nodes are
one table look-up and one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from ghn.graph import Primitive

INPUT = -1
"""Stands for the operation's input in `Part.edges`."""

Size = int | tuple[int, int, int]
"""A size in a shape: a constant, or (halves of C, halves of P0, halves of P1)."""

C: Size = (2, 0, 0)
HALF: Size = (1, 0, 0)
TRIPLE: Size = (6, 0, 0)
P: tuple[Size, Size] = ((0, 2, 0), (0, 0, 2))

_Key = tuple[int, tuple[Size, ...]]


class _NodeTable:
    """Every combination of primitive and shape rule that has come up, numbered as it comes."""

    def __init__(self) -> None:
        self.numbers: dict[_Key, int] = {}
        self.primitives = np.zeros(512, dtype=np.uint8)
        self.constants = np.zeros((512, 4), dtype=np.int32)
        self.coefficients = np.zeros((512, 4, 3), dtype=np.int32)

    def number(self, primitive: int, shape: tuple[Size, ...]) -> int:
        number = self.numbers.setdefault((primitive, shape), len(self.numbers))
        if number == len(self.primitives):
            self.primitives, self.constants, self.coefficients = (
                np.concatenate([table, np.zeros_like(table)])
                for table in (self.primitives, self.constants, self.coefficients)
            )
        self.primitives[number] = primitive
        for k, size in enumerate(shape):
            # Halves, and coefficients of C/2, P0/2 and P1/2: their sum is an integer for the widths
            # that occur.
            if isinstance(size, int):
                self.constants[number, k] = 2 * size
            else:
                self.coefficients[number, k] = size
        return number


_KINDS = _NodeTable()


def primitives_of(kind: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """The primitives (N,) of nodes by their kinds (N,)."""
    return _KINDS.primitives.take(kind)


def shapes_of(kind: NDArray[np.uint16], widths: NDArray[np.int32]) -> NDArray[np.int32]:
    """The parameter shapes (N, 4) of nodes by their kinds (N,) and the widths C, P0 and P1 (N, 3)
    where they are.
    """
    coefficients = _KINDS.coefficients.take(kind, axis=0)
    shape: NDArray[np.int32] = np.einsum("nkw,nw->nk", coefficients, widths)
    shape += _KINDS.constants.take(kind, axis=0)
    shape >>= 1
    return shape


@dataclass(frozen=True, eq=False)
class Part:
    """A piece of a graph with one input.

    Attributes:
        primitives: types of its nodes.
        names: their parameters' names, without the prefix of the place; "" where there is none.
        shapes: their shapes.
        edges: (source, target) among its nodes; source `INPUT` is the piece's input.
        outputs: the nodes that what comes next reads.
    """

    primitives: tuple[int, ...]
    names: tuple[str, ...]
    shapes: tuple[tuple[Size, ...], ...]
    edges: tuple[tuple[int, int], ...]
    outputs: tuple[int, ...]

    @cached_property
    def n_nodes(self) -> int:
        """Number of its nodes."""
        return len(self.primitives)

    @cached_property
    def inner(self) -> list[int]:
        """The part's edges but those from the input, as in `templates`: target * 2^32 + source."""
        return [target << 32 | source for source, target in self.edges if source != INPUT]

    @cached_property
    def readers(self) -> list[int]:
        """The nodes that read the input."""
        return [target for source, target in self.edges if source == INPUT]

    @cached_property
    def kinds(self) -> list[int]:
        """Numbers of its nodes' kinds, for `primitives_of` and `shapes_of`. They differ between
        processes.
        """
        return [
            _KINDS.number(p, shape) for p, shape in zip(self.primitives, self.shapes, strict=True)
        ]


def chain(nodes: Sequence[tuple[Primitive, str, tuple[Size, ...]]]) -> Part:
    """A piece whose nodes follow one another."""
    primitives, names, shapes = zip(*nodes, strict=True)
    edges = tuple((i - 1, i) for i in range(len(nodes)))
    return Part(tuple(int(p) for p in primitives), names, shapes, edges, (len(nodes) - 1,))


def single(primitive: Primitive) -> Part:
    """A node without a parameter, whose incoming edges are the caller's business."""
    return Part((int(primitive),), ("",), ((),), (), (0,))


SUM = single(Primitive.sum)
CONCAT = single(Primitive.concat)
ZERO_PRODUCT = single(Primitive.cse)


def _conv(
    name: str, kernel: tuple[int, int], size_in: Size = C
) -> tuple[Primitive, str, tuple[Size, ...]]:
    return Primitive.conv, f"{name}.weight", (C, size_in, *kernel)


def _norm(name: str, norm: bool) -> list[tuple[Primitive, str, tuple[Size, ...]]]:
    return [(Primitive.bn, f"{name}.weight", (C,))] if norm else []


@cache
def preprocess(norm: bool, which: int) -> Part:
    """ReLU, 1x1 convolution from the width of input `which` to C, norm."""
    return chain([_conv("op.1", (1, 1), P[which]), *_norm("op.2", norm)])


@cache
def factorized_reduce(norm: bool, preprocessing: bool) -> Part:
    """Halves the resolution: two strided 1x1 convolutions with C/2 channels each, on grids one
    pixel apart.
    """
    size_in = P[0] if preprocessing else C
    halves = [(Primitive.conv, f"conv_{i}.weight", (HALF, size_in, 1, 1)) for i in (1, 2)]
    nodes = [*halves, (Primitive.concat, "", ()), *_norm("bn", norm)]
    primitives, names, shapes = zip(*nodes, strict=True)
    edges = ((INPUT, 0), (INPUT, 1), (0, 2), (1, 2)) + (((2, 3),) if norm else ())
    return Part(tuple(int(p) for p in primitives), names, shapes, edges, (len(nodes) - 1,))


@cache
def _attention() -> Part:
    """A transformer layer: ln, qkv, softmax (msa), projection, residual; ln, two linear layers,
    residual.
    """
    bias = Primitive.bias
    nodes = [
        (Primitive.ln, "ln1.weight", (C,)),
        (Primitive.conv, "attn.to_qkv.weight", (TRIPLE, C)),
        (Primitive.msa, "", ()),
        (Primitive.conv, "attn.to_out.0.weight", (C, C)),
        (bias, "attn.to_out.0.bias", (C,)),
        (Primitive.sum, "", ()),
        (Primitive.ln, "ln2.weight", (C,)),
        (Primitive.conv, "ff.net.0.weight", (C, C)),
        (bias, "ff.net.0.bias", (C,)),
        (Primitive.conv, "ff.net.3.weight", (C, C)),
        (bias, "ff.net.3.bias", (C,)),
        (Primitive.sum, "", ()),
    ]
    body = chain(nodes)
    return Part(
        body.primitives, body.names, body.shapes, (*body.edges, (INPUT, 5), (5, 11)), body.outputs
    )


@cache
def _squeeze_excitation(product: bool) -> Part:
    """Mean, two linear layers, product with the input. Without a node for the product its factors
    are the outputs.
    """
    nodes = [
        (Primitive.conv, "fc1.weight", (HALF, C)),
        (Primitive.bias, "fc1.bias", (HALF,)),
        (Primitive.conv, "fc2.weight", (C, HALF)),
        (Primitive.bias, "fc2.bias", (C,)),
    ]
    if not product:
        body = chain(nodes)
        return Part(body.primitives, body.names, body.shapes, body.edges, (INPUT, 3))
    body = chain([*nodes, (Primitive.cse, "", ())])
    return Part(body.primitives, body.names, body.shapes, (*body.edges, (INPUT, 4)), body.outputs)


@cache
def operation(name: str, norm: bool, strided: bool, product: bool) -> Part | None:
    """The nodes of an operation; None where it is the identity.

    Args:
        name: one of `search_space.OPERATIONS`, not none.
        norm: whether the network has batch norm.
        strided: whether the operation halves the resolution.
        product: for cse, whether its product is a node (see `squeeze_quirk`).
    """
    if name == "skip_connect":
        return factorized_reduce(norm, False) if strided else None
    if name.endswith("_pool_3x3"):
        return chain([(Primitive[name[:8]], "", (1, 1, 3, 3))])
    if name == "msa":
        return _attention()
    if name == "cse":
        return _squeeze_excitation(product)
    if name == "conv_7x1_1x7":
        return chain([_conv("op.1", (1, 7)), _conv("op.2", (7, 1)), *_norm("op.3", norm)])
    kind, size = name.rsplit("_", 1)
    kernel = int(size.split("x")[0])
    if kind == "conv":
        return chain([_conv("op.1", (kernel, kernel)), *_norm("op.2", norm)])
    depthwise = Primitive[kind]
    nodes = [
        (depthwise, "op.1.weight", (C, 1, kernel, kernel)),
        _conv("op.2", (1, 1)),
        *_norm("op.3", norm),
    ]
    if kind == "sep_conv":
        nodes += [
            (depthwise, "op.5.weight", (C, 1, kernel, kernel)),
            _conv("op.6", (1, 1)),
            *_norm("op.7", norm),
        ]
    return chain(nodes)


@cache
def classifier_layer(index: int) -> Part:
    """A fully connected layer: C is its number of outputs, P0 that of its inputs."""
    name = f"classifier.{3 * index}"  # Linear, ReLU, dropout per layer
    return chain(
        [(Primitive.conv, f"{name}.weight", (C, P[0])), (Primitive.bias, f"{name}.bias", (C,))]
    )
