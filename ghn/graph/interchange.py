"""Graphs from other forms, JSON and networkx, and to DOT; `Graph` itself gives the first two.

What comes from outside is checked: a wrong field is named, and a graph that breaks a rule
(`Graph.validate`) is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ghn.errors import InvalidGraphError
from ghn.graph.graph import Graph
from ghn.graph.primitives import Primitive

if TYPE_CHECKING:
    import networkx as nx

_FIELDS = ("primitive", "param", "shape", "edges")
_KINDS = {primitive.name: primitive for primitive in Primitive}


def from_json_dict(values: Mapping[str, Any], name: str = "") -> Graph:
    """The inverse of `Graph.to_json_dict`.

    Args:
        values: primitive, param, shape and edges, and columns where channels are shuffled.
        name: of the graph, for messages.

    Raises:
        InvalidGraphError: names the field and the node that is wrong, or the rule that is broken.
    """
    where = f"graph {name or '(unnamed)'}"
    if not isinstance(values, Mapping) or set(values) - {"columns"} != set(_FIELDS):
        found = sorted(values) if isinstance(values, Mapping) else type(values).__name__
        raise InvalidGraphError(f"{where}: has {found}; it must have {', '.join(_FIELDS)}")
    columns = {field: values[field] for field in _FIELDS}
    for field, column in columns.items():
        if not isinstance(column, Sequence) or isinstance(column, str):
            raise InvalidGraphError(f"{where}: {field} is a {type(column).__name__}, not a list")
    sizes = {field: len(columns[field]) for field in _FIELDS[:3]}
    if len(set(sizes.values())) > 1:
        raise InvalidGraphError(f"{where}: one entry per node is needed, but there are {sizes}")
    if not isinstance(read := values.get("columns", {}), Mapping):
        raise InvalidGraphError(f"{where}: columns is a {type(read).__name__}, not a mapping")
    return _build(name, **columns, columns=read)


def from_networkx(graph: nx.DiGraph) -> Graph:
    """The inverse of `Graph.to_networkx`: nodes with `primitive` and, where they have them, `param`
    and `shape`.

    Nodes may be called anything and come in any order: an order in which they are topological is
    kept, else they are sorted. Edges with a `distance` above 1, the virtual ones, are left out.

    Raises:
        InvalidGraphError: it is undirected, has a cycle, or a node's attribute is wrong.
    """
    import networkx as nx

    name = str(graph.graph.get("name", ""))
    if not graph.is_directed():
        raise InvalidGraphError(
            f"graph {name or '(unnamed)'}: its edges have no direction; give a DiGraph"
        )
    pairs = [(u, v) for u, v, hops in graph.edges(data="distance", default=1) if hops == 1]
    order = list(graph)
    place = {node: index for index, node in enumerate(order)}
    if any(place[u] >= place[v] for u, v in pairs):
        try:
            order = list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))
        except nx.NetworkXUnfeasible:
            raise InvalidGraphError(f"graph {name or '(unnamed)'}: it has a cycle") from None
        place = {node: index for index, node in enumerate(order)}
    data = [graph.nodes[node] for node in order]
    return _build(
        name,
        [attributes.get("primitive") for attributes in data],
        [attributes.get("param") or "" for attributes in data],
        [attributes.get("shape") for attributes in data],
        [(place[u], place[v]) for u, v in pairs],
        columns={a["param"]: a["columns"] for a in data if a.get("param") and a.get("columns")},
    )


def to_dot(graph: Graph) -> str:
    """The graph in the language of Graphviz: a line per node and per edge."""
    lines = [f"digraph {_quoted(graph.name or 'network')} {{", "  rankdir=TB; node [shape=box];"]
    for node, kind in enumerate(graph.primitive.tolist()):
        words = [Primitive(kind).name, graph.param[node]]
        words.append(" x ".join(map(str, graph.param_shape(node))))
        label = "\n".join(word for word in words if word)
        lines.append(f"  n{node} [label={_quoted(label)}];")
    lines += [f"  n{source} -> n{target};" for source, target in graph.edges.tolist()]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _build(
    name: str,
    primitive: Sequence[Any],
    param: Sequence[Any],
    shape: Sequence[Any],
    edges: Iterable[Any],
    columns: Mapping[Any, Any],
) -> Graph:
    where = f"graph {name or '(unnamed)'}"
    sizes = np.zeros((len(primitive), 4), dtype=np.int32)
    for node, (kind, parameter, row) in enumerate(zip(primitive, param, shape, strict=True)):
        if not isinstance(kind, str) or kind not in _KINDS:
            raise InvalidGraphError(
                f"{where}: node {node} has primitive {kind!r}; use one of {', '.join(_KINDS)}"
            )
        if not isinstance(parameter, str):
            raise InvalidGraphError(f"{where}: node {node} has param {parameter!r}, not a name")
        row = () if row is None else row
        if not _integers(row, 1, 4):
            raise InvalidGraphError(
                f"{where}: node {node} has shape {row!r}; use up to four positive integers"
            )
        sizes[node, : len(row)] = row
    pairs = list(edges)
    for pair in pairs:
        if not _integers(pair, 0, 2) or len(pair) != 2:
            raise InvalidGraphError(f"{where}: {pair!r} is no edge; use two indices of nodes")
    for parameter, read in columns.items():
        if not isinstance(read, (list, tuple)) or not _integers(read, 0, len(read)):
            raise InvalidGraphError(f"{where}: columns of {parameter!r} are no channels, from 0")
    graph = Graph(
        primitive=np.array([_KINDS[kind] for kind in primitive], dtype=np.uint8),
        edges=np.array(pairs, dtype=np.int32).reshape(-1, 2),
        shape=sizes,
        param=tuple(param),
        name=name,
        columns={name: np.array(read, dtype=np.int32) for name, read in columns.items()},
    )
    graph.validate()
    return graph


def _integers(values: Any, least: int, most_values: int) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) <= most_values
        and all(type(value) is int and least <= value < 2**31 for value in values)
    )
