"""The report: typed blocks (figures, tables, text) that a Jinja template turns into one
self-contained page.
"""

from flows.report.blocks import (
    Block,
    Code,
    Figure,
    Panels,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
)
from flows.report.page import render

__all__ = [
    "Block",
    "Code",
    "Figure",
    "Panels",
    "Picture",
    "Pictures",
    "Section",
    "Table",
    "Text",
    "render",
]
