"""What a page is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Text:
    """A paragraph. `kind`: "lead" tells what a section shows, "note" the setting, "warning" that
    something failed.
    """

    text: str
    kind: str = "body"


@dataclass(frozen=True)
class Figure:
    """An inline SVG (`flows.report.figures`) with its caption; `alt` says in words what it
    shows.
    """

    svg: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Panels:
    """Figures side by side where the page is wide enough."""

    figures: Sequence[Figure]
    caption: str


@dataclass(frozen=True)
class Picture:
    """Pixels (`flows.report.pictures`), shown large and sharp.

    Attributes:
        source: a data URI.
        alt: what it shows, in words.
        title: stands below it.
        lines: stand below the title, smaller.
    """

    source: str
    alt: str
    title: str
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Pictures:
    """Small pictures side by side."""

    pictures: Sequence[Picture]
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first column names the row. Numbers are strings already, None is a dash.

    Attributes:
        header: column titles.
        rows: cells.
        caption: what the table shows.
        groups: titles above the header with the number of columns that each spans.
        sortable: whether a click on a title sorts.
        bold: cells (row, column) that stand out.
        wrapped: whether cells are sentences, which break over lines.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | None]]
    caption: str
    groups: Sequence[tuple[str, int]] = ()
    sortable: bool = False
    bold: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    wrapped: bool = False


@dataclass(frozen=True)
class Code:
    """Lines to copy."""

    text: str


Block = Code | Text | Figure | Panels | Pictures | Table


@dataclass(frozen=True)
class Section:
    """A part of the page, reachable by its anchor."""

    anchor: str
    title: str
    blocks: Sequence[Block]
