"""From sections to HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from flows.report.blocks import Section

_TEMPLATES = Path(__file__).parent / "templates"


def render(
    title: str,
    summary: str,
    tiles: Sequence[tuple[str, str, str]],
    sections: Sequence[Section],
    provenance: Mapping[str, str],
    downloads: Mapping[str, str],
    detail: str = "",
) -> str:
    """One self-contained page: no script, style, font or image is loaded from anywhere.

    Args:
        title: heading.
        summary: the result in a sentence or two.
        tiles: (value, what it is, what to compare it with) of the key figures.
        sections: the body.
        provenance: what the page was made from.
        downloads: file names and their content as CSV, embedded.
        detail: a second paragraph below the summary.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(["html.j2", "html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = _unbroken
    return environment.get_template("page.html.j2").render(
        title=title,
        summary=summary,
        tiles=tiles,
        sections=sections,
        provenance=provenance,
        downloads=downloads,
        detail=detail,
        style=(_TEMPLATES / "style.css").read_text(),
        script=(_TEMPLATES / "sort.js").read_text(),
    )


def _unbroken(text: str) -> str:
    """Keeps a number and its sign on one line."""
    space = "\N{NO-BREAK SPACE}"
    return text.replace(" %", f"{space}%").replace(" = ", f"{space}={space}")
