"""How the tests write graphs down."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ghn.graph import Graph, Primitive


def _describe(graph: Graph) -> list[str]:
    names = [
        param or Primitive(kind).name
        for param, kind in zip(graph.param, graph.primitive, strict=True)
    ]
    return sorted(f"{names[source]} -> {names[target]}" for source, target in graph.edges.tolist())


@pytest.fixture(scope="session")
def describe() -> Callable[[Graph], list[str]]:
    """Gives the edges of a graph as sorted strings "source -> target"; a node is its parameter or
    its primitive.
    """
    return _describe
