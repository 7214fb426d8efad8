"""The picture of the pipeline: its stages, what reads what, and what each of them gave.

Drawn twice, from left to right for wide pages and from top to bottom for phones and paper; the
stylesheet shows one of the two, at about the size at which it was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from flows.report.blocks import Figure, Section, Text
from flows.report.evaluation import DEEPNETS, Setting, column, good
from flows.rows.schema import Row, failures
from flows.settings.inits import RANDOM
from flows.trials.statistics import compare
from flows.words import counted, percent

PLACES = {
    "generate": (0, 0),
    "sources": (0, 2),
    "validate": (1, 0),
    "images": (1, 2),
    "train": (2, 1),
    "predict": (3, 0),
    "evaluate": (3, 1),
    "register": (3, 2),
    "finetune": (4, 1),
    "transfer": (4, 2),
    "report": (5, 1),
}
"""Where each stage of dvc.yaml stands: along the flow, and across it."""

ARROWS = (
    ("generate", "validate"),
    ("sources", "images"),
    ("validate", "train"),
    ("images", "train"),
    ("train", "predict"),
    ("train", "evaluate"),
    ("evaluate", "register"),
    ("evaluate", "finetune"),
    ("evaluate", "transfer"),
    ("predict", "report"),
    ("finetune", "report"),
    ("transfer", "report"),
)
"""Which stage reads what another writes, without those that follow from others."""

LETTERS = 18
"""What a line of a box has room for."""

_Point = tuple[float, float]
_GAP_ACROSS, _HEAD = 12.0, 5.0


@dataclass(frozen=True)
class _Drawing:
    """One of the two pictures; lengths are in pixels.

    Attributes:
        name: its class in the stylesheet.
        right: whether the flow goes to the right, and not down.
        box: width and height of a box.
        gap: between boxes along the flow.
        font: size of the text.
    """

    name: str
    right: bool
    box: tuple[float, float]
    gap: float
    font: float

    def corner(self, stage: str) -> _Point:
        """The upper left corner of a box."""
        level, lane = PLACES[stage]
        column, row = (level, lane) if self.right else (lane, level)
        gaps = (self.gap, _GAP_ACROSS) if self.right else (_GAP_ACROSS, self.gap)
        return 1 + column * (self.box[0] + gaps[0]), 1 + row * (self.box[1] + gaps[1])

    def _side(self, stage: str, along: float, across: float) -> _Point:
        """A point of a box: 0 is where the flow enters it, or the first side across, 1 the other
        end, 0.5 the middle.
        """
        x, y = self.corner(stage)
        horizontal, vertical = (along, across) if self.right else (across, along)
        return x + horizontal * self.box[0], y + vertical * self.box[1]

    def arrow(self, start: str, end: str) -> list[_Point]:
        """The corners of a line from one box to another: across to one beside it, in the middle of
        the gap to one in the next place, and past an empty place into the side of a later one.
        """
        (level, lane), (other_level, other_lane) = PLACES[start], PLACES[end]
        if level == other_level:
            return [self._side(start, 0.5, 1), self._side(end, 0.5, 0)]
        begin = self._side(start, 1, 0.5)
        if other_level > level + 1:
            stop = self._side(end, 0.5, 0 if lane < other_lane else 1)
            return [begin, (stop[0], begin[1]) if self.right else (begin[0], stop[1]), stop]
        stop = self._side(end, 0, 0.5)
        if self.right:
            middle = begin[0] + self.gap / 2
            return [begin, (middle, begin[1]), (middle, stop[1]), stop]
        middle = begin[1] + self.gap / 2
        return [begin, (begin[0], middle), (stop[0], middle), stop]

    def svg(self, told: Mapping[str, Sequence[str]]) -> str:
        """The element, in the colours of the page."""
        corners = [self.corner(stage) for stage in PLACES]
        width, height = (max(c[axis] for c in corners) + self.box[axis] + 1 for axis in (0, 1))
        parts = [_line(self.arrow(*pair)) for pair in ARROWS]
        parts += [self._box(stage, told.get(stage, ())) for stage in PLACES]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="{self.name}"'
            f' viewBox="0 0 {width:g} {height:g}" font-size="{self.font:g}">{"".join(parts)}</svg>'
        )

    def _box(self, stage: str, lines: Sequence[str]) -> str:
        x, y = self.corner(stage)
        width, height = self.box
        centre, step = x + width / 2, 1.35 * self.font
        top = y + height / 2 - step + 0.35 * self.font
        texts = [
            f'<text x="{centre:g}" y="{top + number * step:.1f}" text-anchor="middle"'
            f' style="fill: var({"--muted" if number else "--ink"})'
            f'{"" if number else "; font-weight: 650"}">{escape(text)}</text>'
            for number, text in enumerate((stage, *lines))
        ]
        return (
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"'
            f' style="fill: var(--raised); stroke: var(--grid)"/>{"".join(texts)}'
        )


_DRAWINGS = (
    _Drawing("wide", True, (160, 66), 26, 13),
    _Drawing("narrow", False, (118, 58), 22, 11.5),
)


def _line(points: Sequence[_Point]) -> str:
    """A line with a head at its end."""
    (x, y), (before_x, before_y) = points[-1], points[-2]
    dx, dy = (x > before_x) - (x < before_x), (y > before_y) - (y < before_y)
    back, wing = _HEAD * 1.6, _HEAD * 0.8
    head = [
        (x, y),
        (x - back * dx + wing * dy, y - back * dy + wing * dx),
        (x - back * dx - wing * dy, y - back * dy - wing * dx),
    ]
    return (
        f'<polyline points="{_list(points)}" style="fill: none; stroke: var(--muted)"/>'
        f'<polygon points="{_list(head)}" style="fill: var(--muted)"/>'
    )


def _list(points: Sequence[_Point]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def pipeline(told: Mapping[str, Sequence[str]]) -> Section:
    """The section with the picture.

    Args:
        told: for each stage what it `gave`.
    """
    words = "; ".join(f"{stage}: {', '.join(lines)}" for stage, lines in told.items())
    return Section(
        "pipeline",
        "The pipeline",
        [
            Text(
                "A box is a stage of dvc.yaml with what it gave; an arrow leads to a stage that"
                " reads what another has written.",
                "lead",
            ),
            Figure(
                "".join(drawing.svg(told) for drawing in _DRAWINGS),
                "Arrows that follow from others are left out.",
                f"The stages of the pipeline with what each gave. {words}.",
            ),
        ],
    )


def gave(
    setting: Setting,
    tables: Mapping[str, Sequence[Row]],
    curve: Sequence[Mapping[str, float]],
    ghn: str,
    registered: str,
) -> dict[str, tuple[str, ...]]:
    """Two lines per stage, of at most `LETTERS` letters.

    Args:
        setting: of the measurements.
        tables: rows by stage: predictions, evaluation, finetune, transfer.
        curve: evaluations along the training, as `curve.json` has them.
        ghn: name of the hypernetwork.
        registered: its name in the registry.
    """
    predictions, evaluated = tables["predictions"], tables["evaluation"]
    steps = f"{setting.steps:,} steps" if setting.steps else "a hypernetwork"
    told = {
        "generate": (f"{setting.train_architectures:,} to train on", _measured(evaluated)),
        "sources": ("files of images,", "looked at"),
        "validate": ("every graph", "proven right"),
        "images": (setting.images, f"{setting.image_size} px, {setting.classes} classes"),
        "train": (steps, f"unseen: {percent(curve[-1]['val_mean'])}" if curve else ""),
        "predict": (_networks(predictions), _share(predictions)),
        "evaluate": _untrained(evaluated),
        "register": ("a version of", registered),
        "finetune": _gain(tables["finetune"], ghn),
        "transfer": _gain(tables["transfer"], ghn),
        "report": ("this page", f"of {sum(map(len, tables.values())):,} rows"),
    }
    return {stage: tuple(map(_short, filter(None, lines))) for stage, lines in told.items()}


def _short(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"


def _measured(evaluated: Sequence[Row]) -> str:
    networks = {row["architecture"] for row in evaluated if row["split"] in DEEPNETS}
    return f"{len(networks):,} to measure"


def _networks(rows: Sequence[Row]) -> str:
    """How many there are, and how many of them failed."""
    names = {row["architecture"] for row in rows}
    failed = {row["architecture"] for row in failures(rows)}
    if failed:
        return f"{len(names):,}, {len(failed):,} failed"
    return counted(len(names), "network")


def _share(rows: Sequence[Row]) -> str:
    members = good(rows, *DEEPNETS, "torchvision")
    if not members:
        return ""
    share = float((column(members, "predicted") / column(members, "parameters")).mean())
    return f"{percent(share)} predicted"


def _untrained(rows: Sequence[Row]) -> tuple[str, str]:
    members = good(rows, *DEEPNETS) or good(rows, "torchvision")
    if not members:
        return _networks(rows), "none evaluated"
    predicted, random = (
        float(column(members, name).mean()) for name in ("accuracy", "randinit_accuracy")
    )
    return f"{percent(predicted)} untrained", f"random: {percent(random)}"


def _gain(rows: Sequence[Row], ghn: str) -> tuple[str, str]:
    """Points of test accuracy over random parameters."""
    result = compare(rows, ghn, RANDOM)
    if result is None:
        return "not measured", _networks(rows) if rows else ""
    return f"{100 * result.mean_difference:+.1f} points", _networks(rows)
