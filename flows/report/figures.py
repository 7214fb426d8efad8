"""Plots as inline SVG that takes the page's font and colours, in light, in dark and on paper.

Matplotlib draws in placeholder colours that are then replaced by the page's CSS variables. Nothing
in a figure depends on time or machine, so the same rows give the same bytes. The first six series
colours are Okabe and Ito's, told apart by readers with colour-blindness; series differ in line
style or filling too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, PercentFormatter, ScalarFormatter
from numpy.typing import NDArray

from ghn.graph.drawing import Drawable
from ghn.graph.drawing import draw as draw_graph

_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_SERIES = tuple(f"#0a0a0{number}" for number in range(1, 9))
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--grid"} | {
    colour: f"--series-{number}" for number, colour in enumerate(_SERIES, 1)
}
_DASHES: tuple[Any, ...] = (
    *("-", (0, (5, 2)), (0, (2, 1.5)), "-.", (0, (1, 1)), "-"),
    *((0, (6, 1.5, 1, 1.5, 1, 1.5)), (0, (8, 3))),
)
_MARKERS = "os^DvP*X"

_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it takes the page's font, is selectable and small
    "font.size": 8.5,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
}


_SIZE = (3.7, 2.6)
"""Of a figure, in inches: a phone is about 3.7 wide."""

_INSIDE = 4
"""With more lines than this the legend stands beside the axes: inside it would cover some."""


@dataclass(frozen=True)
class Series:
    """A named line with an optional band.

    Attributes:
        name: for the legend.
        x: (N,) positions.
        y: (N,) values.
        spread: (N,) half-width of the band, if any.
        colour: number of the series colour, from 0.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] | None = None
    colour: int = 0


def lines(
    series: Sequence[Series],
    title: str,
    x_label: str,
    y_label: str,
    *,
    percent: bool = True,
    chance: float | None = None,
    log: bool = False,
    whole: bool = True,
) -> str:
    """A line per series, bands for spreads, a dotted line at chance; `log`: a logarithmic axis of
    values; `whole`: positions are whole numbers.
    """

    def draw(axes: Axes) -> None:
        for entry in series:
            colour = _SERIES[entry.colour % len(_SERIES)]
            x, y = np.asarray(entry.x, float), np.asarray(entry.y, float)
            axes.plot(
                x,
                y,
                color=colour,
                linestyle=_DASHES[entry.colour % len(_DASHES)],
                marker="o" if len(x) < 12 else None,
                markersize=3,
                label=entry.name,
            )
            if entry.spread is not None:
                spread = np.asarray(entry.spread, float)
                axes.fill_between(x, y - spread, y + spread, color=colour, alpha=0.18, linewidth=0)
        if chance is not None:
            axes.axhline(chance, color=_MUTED, linestyle=":", linewidth=1)
            axes.annotate(
                "chance",
                (1, chance),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=7.5,
            )
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole))
        if log:
            axes.set_yscale("log", base=2)
            axes.yaxis.set_major_formatter(ScalarFormatter())
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.set_ylim(bottom=0)
        if len(series) > _INSIDE:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7.5)
        elif len(series) > 1:
            axes.legend(loc="best", fontsize=8)

    return _svg(draw, title, (5, 2.6) if len(series) > _INSIDE else _SIZE)


def accuracy_end(samples: Iterable[NDArray[np.float64]]) -> float:
    """Where the axis of histograms that stand beside each other ends: at 25, 50 or 100 %, whatever
    holds all accuracies, so that small ones do not fall into one bin.
    """
    largest = max((sample.max(initial=0) for sample in samples), default=0)
    return next(end for end in (0.25, 0.5, 1.0) if largest <= end)


def histogram(
    values: Mapping[str, NDArray[np.float64]],
    title: str,
    x_label: str,
    bins: int,
    chance: float,
    end: float,
) -> str:
    """Accuracies of each series from 0 to `end`: the first filled, the others outlined; means as
    ticks on the axis.
    """

    def draw(axes: Axes) -> None:
        edges = np.linspace(0, end, bins + 1)
        top = 0.0
        for number, (name, sample) in enumerate(values.items()):
            colour = _SERIES[number % len(_SERIES)]
            counts, _ = np.histogram(sample, edges)
            top = max(top, counts.max(initial=0))
            if number == 0:
                axes.stairs(counts, edges, fill=True, color=colour, alpha=0.75, label=name)
            else:
                axes.stairs(
                    counts,
                    edges,
                    color=colour,
                    linewidth=1.4,
                    linestyle=_DASHES[number % len(_DASHES)],
                    label=name,
                )
            if sample.size:
                axes.plot(
                    [sample.mean()],
                    [0],
                    marker="^",
                    color=colour,
                    markersize=6,
                    clip_on=False,
                    zorder=5,
                )
        axes.axvline(chance, color=_MUTED, linestyle=":", linewidth=1)
        axes.set(
            xlabel=x_label, ylabel="architectures", xlim=(0, end), ylim=(0, max(1.0, top * 1.08))
        )
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.legend(loc="upper right", fontsize=8)

    return _svg(draw, title)


def scatter(
    points: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    x_label: str,
    y_label: str,
    *,
    equal: bool = False,
) -> str:
    """Points of each series, the smaller the more there are; `equal`: both axes are accuracies from
    0 up to the same end, with the line on which they are equal.
    """
    most = max((len(x) for x, _ in points.values()), default=0)

    def draw(axes: Axes) -> None:
        for number, (name, (x, y)) in enumerate(points.items()):
            axes.scatter(
                x,
                y,
                s=9 if most > 100 else 30,
                color=_SERIES[number % len(_SERIES)],
                alpha=0.65,
                linewidth=0,
                label=name,
                marker=_MARKERS[number % len(_MARKERS)],
            )
        axes.set(xlabel=x_label, ylabel=y_label)
        if equal:
            end = max(value for pair in points.values() for side in pair for value in side)
            end = min(1.0, 1.08 * end)
            axes.plot([0, end], [0, end], color=_MUTED, linestyle=":", linewidth=1)
            axes.set(xlim=(0, end), ylim=(0, end))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(loc="best", fontsize=8)

    return _svg(draw, title)


def bars(
    values: Mapping[str, tuple[float, float]], names: tuple[str, str], title: str, chance: float
) -> str:
    """A pair of horizontal bars per entry, the first at the top; the first of a pair filled."""
    places = np.arange(len(values))[::-1]

    def draw(axes: Axes) -> None:
        for number, name in enumerate(names):
            axes.barh(
                places + (0.2, -0.2)[number],
                [pair[number] for pair in values.values()],
                0.38,
                color=_SERIES[number],
                alpha=(0.9, 0.5)[number],
                label=name,
            )
        axes.axvline(chance, color=_MUTED, linestyle=":", linewidth=1)
        axes.set_yticks(places, list(values))
        axes.set(xlabel="accuracy", ylim=(-0.6, len(values) - 0.4))
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(loc="lower right", fontsize=8)

    return _svg(draw, title, (4.2, 0.7 + 0.2 * len(values)))


def _svg(draw: Any, title: str, size: tuple[float, float] = _SIZE) -> str:
    """Runs `draw` on fresh axes and returns the SVG element. `size` is in inches."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}):
        canvas = Canvas(figsize=size, layout="constrained")
        axes = canvas.add_subplot()
        axes.set_title(title)
        draw(axes)
        return _for_the_page(canvas, title)


def graph(shown: Drawable, title: str) -> str:
    """The picture of a graph (`ghn.graph.draw`) with the page's colour of text."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}):
        canvas = draw_graph(shown, labels=False, title=" ")  # the page says it below
        return _for_the_page(canvas, title)


def _for_the_page(canvas: Canvas, title: str) -> str:
    """The SVG element alone, as wide as its place, with ids of its own and the page's colours."""
    FigureCanvasSVG(canvas)
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    prefix = re.sub(r"\W+", "-", title.lower())  # ids must be unique on the page
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\1{prefix}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
