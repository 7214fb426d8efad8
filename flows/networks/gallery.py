"""A page with pictures of a split's graphs: one file, no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path

from tqdm import tqdm

from datasets.deepnets import Architecture, Split
from ghn.files import atomic_path
from ghn.graph.drawing import draw

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; color: #222 }}
body {{ margin: 2rem auto; max-width: 90rem; padding: 0 1rem }}
main {{ columns: 22rem; column-gap: 1rem }}
figure {{ margin: 0 0 1rem; border: 1px solid #ddd; border-radius: 6px; padding: .75rem }}
figure {{ break-inside: avoid }}
figure:target {{ column-span: all }}
figure img {{ display: block; max-width: 100%; margin: auto }}
figure:not(:target) img {{ max-height: 26rem }}
figcaption b {{ font-size: 1.05em }}
figure:not(:target) figcaption a {{ display: none }}
code {{ font-size: .85em; overflow-wrap: anywhere }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #1b1b1b; color: #ddd }}
  figure {{ background: #fff; color: #222 }}
}}
</style></head><body>
<h1>{title}</h1>
<p>{n} of the {total} architectures; nodes are operations, marked by primitive,
edges follow the forward pass. A click on a picture shows it in full.</p>
<main>
{figures}
</main></body></html>
"""

_FIGURE = """<figure id="graph-{index}"><a href="#graph-{index}">
<img alt="{alt}" src="data:image/png;base64,{picture}"></a>
<figcaption><b>{name}</b> <a href="#">back</a><br>{facts}<br><code>{cells}</code></figcaption>
</figure>"""


def write_gallery(split: Split, indices: Iterable[int], path: Path) -> None:
    """Writes the page.

    Args:
        split: whose architectures.
        indices: which of them.
        path: the HTML file.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    indices = list(indices)
    figures = [
        _figure(split, index)
        for index in tqdm(indices, desc="gallery", unit="picture", mininterval=1.0)
    ]
    title = f"DeepNets-1M, {escape(split.name)}"
    page = _PAGE.format(title=title, n=len(indices), total=len(split), figures="\n".join(figures))
    with atomic_path(path) as temporary:
        temporary.write_text(page)


def _figure(split: Split, index: int) -> str:
    architecture, graph = split[index], split.graph(index)
    buffer = io.BytesIO()
    draw(graph, labels=False).savefig(buffer, format="png", dpi=110)
    name = split.identifier(index)
    parameters = int(split.n_params[index, 0])
    facts = (
        f"{graph.n_nodes} nodes, {len(graph.edges)} edges, {parameters:,} parameters,"
        f" {_arguments(architecture)}"
    )
    return _FIGURE.format(
        index=index,
        picture=base64.b64encode(buffer.getvalue()).decode(),
        alt=escape(f"graph of {name}"),
        name=escape(name),
        facts=escape(facts),
        cells=escape(_cells(architecture)),
    )


def _arguments(architecture: Architecture) -> str:
    head = "average pooling" if architecture.glob_avg else "VGG head"
    norm = "batch norm" if architecture.norm else "no norm"
    return f"{architecture.n_cells} cells, {norm}, {head}, {architecture.fc_layers} fully connected"


def _cells(architecture: Architecture) -> str:
    genotype = architecture.genotype

    def cell(edges: tuple[tuple[str, int], ...]) -> str:
        return " ".join(f"{name}({source})" for name, source in edges)

    return (
        f"normal: {cell(genotype.normal)}; reduction: {cell(genotype.reduce)}; output:"
        f" {genotype.normal_concat}"
    )
