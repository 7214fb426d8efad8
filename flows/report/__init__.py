"""The report: typed blocks (figures, tables, text) that a Jinja template turns into one
self-contained page.
"""

from flows.report.blocks import Block, Figure, Panels, Section, Table, Text
from flows.report.page import render

__all__ = ["Block", "Figure", "Panels", "Section", "Table", "Text", "render"]
