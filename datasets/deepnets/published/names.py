"""Names of primitives and parameters in the published files, and ours."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ghn.graph import Graph, Primitive

JOINING = (Primitive.sum, Primitive.concat, Primitive.cse)
"""Primitives that may have several inputs."""


def primitive_of(name: str) -> Primitive:
    """The primitive of a published name, which may tell kernel sizes apart."""
    if name == "fc-b":
        return Primitive.bias
    return Primitive[re.sub(r"_\d+x\d+$|_\d+$", "", name)]


def has_parameter(primitive: int) -> bool:
    """Whether nodes of a primitive have a parameter."""
    return primitive not in (*JOINING, Primitive.input, Primitive.msa, Primitive.glob_avg, 0, 1)


def param_of(name: str, cell: int) -> str:
    """Our name of a parameter; several generations of published names differ in details."""
    if name.startswith(("stem", "pos_enc", "classifier")):
        return name
    name = re.sub(r"(?<!attn)\.(to_qkv|to_out)", r".attn.\1", name)
    name = re.sub(r"^(_ops\.\d+)\.(\d+\.)", r"\1.op.\2", name)
    if name.endswith("to_out.0."):
        name += "weight"
    return f"cells.{cell}.{name}"


def suffix(param: str) -> str:
    """A parameter's name without its cell."""
    return re.sub(r"^cells\.\d+\.", "", param)


def extended_names(graph: Graph) -> Iterator[str]:
    """The published names of primitives, which tell 1x1 convolutions apart."""
    for primitive, shape in zip(graph.primitive.tolist(), graph.shape.tolist(), strict=True):
        small = shape[2] == shape[3] and shape[2] <= 1
        yield "conv_1x1" if primitive == Primitive.conv and small else Primitive(primitive).name


def published_names(graph: Graph) -> Iterator[str]:
    """The published names of nodes, within their cells."""
    for primitive, param in zip(graph.primitive.tolist(), graph.param, strict=True):
        yield suffix(param).replace(".attn.", ".") or Primitive(primitive).name
