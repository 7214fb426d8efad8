"""Pictures of graphs: layers from top to bottom, folded into columns, nodes marked by primitive.

The layout needs no graphviz. A node's layer is the length of the longest path to it from a node
without predecessors, so that every edge points down; within a layer, nodes stand as close to the
mean of their predecessors as their neighbours allow. Colours are those of Okabe and Ito, told apart
with any colour vision; the shape of the marker says the same again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ghn.errors import ConfigError
from ghn.files import atomic_path
from ghn.graph.primitives import Primitive

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLACK, _GREY, _WHITE = "#000000", "#999999", "#ffffff"
_ORANGE, _SKY, _GREEN, _YELLOW = "#e69f00", "#56b4e9", "#009e73", "#f0e442"
_BLUE, _VERMILLION, _PURPLE = "#0072b2", "#d55e00", "#cc79a7"

STYLE: dict[Primitive, tuple[str, str]] = {
    Primitive.input: (_BLACK, "s"),
    Primitive.conv: (_BLUE, "o"),
    Primitive.sep_conv: (_SKY, "o"),
    Primitive.dil_conv: (_SKY, "h"),
    Primitive.bias: (_GREY, "d"),
    Primitive.bn: (_GREEN, "s"),
    Primitive.ln: (_GREEN, "D"),
    Primitive.msa: (_VERMILLION, "*"),
    Primitive.cse: (_VERMILLION, "P"),
    Primitive.sum: (_YELLOW, "^"),
    Primitive.concat: (_YELLOW, ">"),
    Primitive.max_pool: (_ORANGE, "v"),
    Primitive.avg_pool: (_ORANGE, "p"),
    Primitive.glob_avg: (_ORANGE, "8"),
    Primitive.pos_enc: (_PURPLE, "X"),
}
"""Colour and matplotlib marker of each primitive, in the order of the legend."""


class Drawable(Protocol):
    """What a picture shows of a graph; `ghn.graph.Graph` is one."""

    @property
    def primitive(self) -> NDArray[np.uint8]:
        """(N,) indices of `Primitive`."""

    @property
    def edges(self) -> NDArray[np.int32]:
        """(E, 2) pairs (source, target) with source < target."""

    @property
    def param(self) -> Sequence[str]:
        """(N,) names of parameters, "" for none."""

    @property
    def name(self) -> str:
        """What the graph is of."""


LABEL_LIMIT = 60
"""Largest number of nodes for which `draw` writes parameter names beside the nodes by default."""

_LETTER_WIDTH = 0.042  # inches, of a label
_LEGEND_WIDTH = 1.2  # inches


def draw(
    graph: Drawable,
    path: str | os.PathLike[str] | None = None,
    *,
    labels: bool | None = None,
    title: str | None = None,
    dpi: int = 150,
) -> Figure:
    """Draws `graph`.

    Args:
        graph: to draw.
        path: where to write the picture, in the format that its suffix names (png, svg, pdf); None
            only returns it.
        labels: whether to write the name of its parameter beside each node; by default for up to 60
            nodes.
        title: of the picture; by default the graph's name with the numbers of nodes and edges.
        dpi: resolution of a png.

    Raises:
        ConfigError: matplotlib is not installed, or does not know the format.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("pictures of graphs need matplotlib: pip install matplotlib") from error
    labels = len(graph.primitive) <= LABEL_LIMIT if labels is None else labels
    texts = [
        param or Primitive(kind).name
        for param, kind in zip(graph.param, graph.primitive, strict=True)
    ]
    label_width = max(map(len, texts)) * _LETTER_WIDTH + 0.15 if labels else 0.0
    spacing = (max(0.3, label_width), 0.24 if labels else 0.18)
    x_N, y_N, column_N = layout(graph, spacing)
    width, height = np.ptp(x_N) + label_width + 1.0, np.ptp(y_N) + 0.4
    figure = Figure(figsize=(width + _LEGEND_WIDTH, max(height, 2.8) + 0.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(x_N.min() - 0.3, x_N.max() + label_width + 0.7)
    axes.set_ylim(y_N.min() - 0.2, y_N.max() + 0.2)
    axes.set_title(
        title or f"{graph.name or 'graph'}: {len(graph.primitive)} nodes, {len(graph.edges)} edges",
        fontsize=10,
    )
    _edges(axes, graph, x_N, y_N, column_N, spacing)
    handles = _nodes(axes, graph, x_N, y_N, size=34 if labels else 22)
    for node, text in enumerate(texts if labels else ()):
        axes.annotate(text, (x_N[node], y_N[node]), xytext=(5, 0), textcoords="offset points",
                      fontsize=5.5,
                      va="center", color="#333333", zorder=4)  # fmt: skip
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8
    )
    if path is not None:
        write_figure(figure, Path(path), dpi)
    return figure


def layout(
    graph: Drawable, spacing: tuple[float, float] = (0.3, 0.18), aspect: float = 0.75
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Positions of the nodes: layers downwards, folded into columns from left to right.

    Args:
        graph: with N nodes.
        spacing: between neighbours of a layer, and between layers, in inches.
        aspect: height over width of the whole, about.

    Returns:
        (N,) horizontal and (N,) vertical positions in inches, (N,) columns.
    """
    predecessors: list[list[int]] = [[] for _ in range(len(graph.primitive))]
    for source, target in graph.edges.tolist():
        predecessors[target].append(source)
    layer_N = np.zeros(len(graph.primitive), dtype=np.int64)
    for node, sources in enumerate(predecessors):  # topological order: predecessors are done
        if sources:
            layer_N[node] = 1 + layer_N[sources].max()
    _lower_roots(predecessors, layer_N)

    x_N = np.zeros(len(graph.primitive))
    n_layers = int(layer_N.max()) + 1
    for layer in range(n_layers):
        nodes = np.flatnonzero(layer_N == layer)
        wish = np.array(
            [x_N[predecessors[node]].mean() if predecessors[node] else x_N.max() for node in nodes]
        )
        order = np.argsort(wish, kind="stable")
        rank = np.arange(len(nodes)) * spacing[0]
        # The nearest places to the wishes that are a spacing apart: push right, then shift back
        # what that moved.
        place = np.maximum.accumulate(wish[order] - rank) + rank
        x_N[nodes[order]] = place + (wish[order] - place).mean()

    column_width = np.ptp(x_N) + 2.0 * spacing[0]
    n_rows = max(12, math.ceil(math.sqrt(n_layers * column_width * aspect / spacing[1])))
    n_columns = math.ceil(n_layers / n_rows)
    n_rows = math.ceil(n_layers / n_columns)
    column_N: NDArray[np.int64] = layer_N // n_rows
    y_N = (layer_N % n_rows).astype(np.float64) * -spacing[1]
    left = 0.0
    for column in range(n_columns):
        inside = column_N == column
        x_N[inside] += left - x_N[inside].min()
        left = x_N[inside].max() + 2.0 * spacing[0]
    return x_N, y_N, column_N


def _lower_roots(predecessors: list[list[int]], layer_N: NDArray[np.int64]) -> None:
    """Moves nodes without predecessors, other than the input, to just above the first node that
    they lead to.
    """
    first = np.full(len(predecessors), -1)
    for target in range(len(predecessors) - 1, -1, -1):
        for source in predecessors[target]:
            if first[source] < 0 or layer_N[target] < layer_N[first[source]]:
                first[source] = target
    for node in range(1, len(predecessors)):
        if not predecessors[node] and first[node] >= 0:
            layer_N[node] = max(0, layer_N[first[node]] - 1)


def _nodes(
    axes: Axes, graph: Drawable, x_N: NDArray[np.float64], y_N: NDArray[np.float64], size: float
) -> list[Any]:
    """Draws the nodes, a primitive at a time; returns the entries of the legend."""
    handles = []
    for primitive, (colour, marker) in STYLE.items():
        nodes = np.flatnonzero(graph.primitive == primitive)
        if nodes.size:
            scale = 1.6 if marker in "*" else 1.0
            handles.append(
                axes.scatter(x_N[nodes], y_N[nodes], s=size * scale, c=colour, marker=marker,
                             edgecolors=_BLACK,
                             linewidths=0.5, zorder=3, label=f"{primitive.name} ({nodes.size})")
            )  # fmt: skip
    return handles


def _edges(
    axes: Axes,
    graph: Drawable,
    x_N: NDArray[np.float64],
    y_N: NDArray[np.float64],
    column_N: NDArray[np.int64],
    spacing: tuple[float, float],
) -> None:
    """Draws the edges: straight where no node is in the way, else bent around; faint from column to
    column.
    """
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path as Curve

    near, far = [], []
    for source, target in graph.edges.tolist():
        (x0, y0), (x1, y1) = (x_N[source], y_N[source]), (x_N[target], y_N[target])
        layers = (y0 - y1) / spacing[1]
        if column_N[source] != column_N[target]:
            middle = x1 - min(0.5, (x1 - x0) / 2)
            far.append(
                Curve([(x0, y0), (middle, y0 - 0.1), (middle, y1 + 0.1), (x1, y1)], [1, 4, 4, 4])
            )
        elif layers < 1.5 or not _hits(x_N, y_N, (x0, y0), (x1, y1), spacing[0] / 3):
            near.append(Curve([(x0, y0), (x1, y1)]))
        else:
            side = max(x0, x1) + min(0.1 + 0.04 * math.sqrt(layers), 0.4)
            near.append(
                Curve([(x0, y0), (side, y0 - 0.06), (side, y1 + 0.06), (x1, y1)], [1, 4, 4, 4])
            )
    for curves, colour, width in ((far, "#bbbbbb", 0.6), (near, "#555555", 0.8)):
        axes.add_collection(
            PathCollection(curves, facecolors="none", edgecolors=colour, linewidths=width, zorder=1)
        )


def _hits(
    x_N: NDArray[np.float64],
    y_N: NDArray[np.float64],
    start: tuple[float, float],
    end: tuple[float, float],
    distance: float,
) -> bool:
    """Whether the straight line from `start` down to `end` passes a node in between within
    `distance`.
    """
    (x0, y0), (x1, y1) = start, end
    between = (y_N < y0 - 1e-6) & (y_N > y1 + 1e-6)
    x_line = x0 + (x1 - x0) * (y0 - y_N[between]) / (y0 - y1)
    return bool((np.abs(x_N[between] - x_line) < distance).any())


def write_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Writes a picture, in the format that the suffix of `path` names.

    Raises:
        ConfigError: it names none.
    """
    kind = path.suffix.lstrip(".").lower()
    if kind not in figure.canvas.get_supported_filetypes():
        known = ", ".join(sorted(figure.canvas.get_supported_filetypes()))
        raise ConfigError(f"{path}: no picture format is called {kind!r}; known: {known}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format=kind)
