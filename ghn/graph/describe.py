"""Graphs in words and as files: what `ghn trace` prints and writes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from ghn.errors import InvalidGraphError
from ghn.files import atomic_path
from ghn.graph.graph import Graph, average_undirected_path
from ghn.graph.interchange import to_dot
from ghn.graph.primitives import Primitive


def describe(graph: Graph) -> str:
    """Numbers of nodes by primitive, statistics of paper table 3 and the canonical hash. A graph in
    parts (of a network with an output that its input does not reach) has no average path.
    """
    try:
        path = f"average path {average_undirected_path(graph):.1f}"
    except InvalidGraphError:
        path = "not connected"
    counts = Counter(graph.primitive.tolist())
    head = (
        f"{graph.name or '(unnamed)'}: {graph.n_nodes} nodes, {len(graph.edges)} edges, average"
        f" degree {2 * len(graph.edges) / graph.n_nodes:.2f}, {path}, longest shortest path"
        f" {int(graph.distance.max())}"
    )
    lines = [f"  {Primitive(p).name:<10}{counts[p]:>6}" for p in sorted(counts)]
    return "\n".join([head, *lines, f"  hash      {graph.canonical_hash()}"])


def write(graph: Graph, path: Path, labels: bool | None = None) -> None:
    """Writes a graph as JSON (`.json`), for Graphviz (`.dot`, `.gv`) or as a picture (`.png`,
    `.svg`, `.pdf`).

    Args:
        graph: which.
        path: the file.
        labels: whether a picture names the nodes; by default those of small graphs.

    Raises:
        ConfigError: no such picture format, or matplotlib is not installed.
    """
    if path.suffix == ".json":
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(graph.to_json_dict()) + "\n")
    elif path.suffix in (".dot", ".gv"):
        with atomic_path(path) as temporary:
            temporary.write_text(to_dot(graph))
    else:
        graph.draw(path, title=graph.name, labels=labels)
