"""Sections that show single things: filters of first layers (paper fig. 2), images with predicted
classes before and after fine-tuning, graphs.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np

from flows.report import figures
from flows.report.blocks import Block, Figure, Panels, Picture, Pictures, Section, Text
from flows.report.inits import in_order, init_name
from flows.report.pictures import filter_grid, png
from flows.rows.schema import Row, sound
from ghn.graph import Graph


def first_filters(rows: Sequence[Row], ghn: str) -> Section | None:
    """First-layer filters as initialised and after fine-tuning (fig. 2); None where none are kept.

    Of a torchvision network, where there is one, and of one of DeepNets-1M.
    """
    kept = [row for row in sound(rows) if row.get("filters")]
    if not kept:
        return None
    blocks: list[Block] = [
        Text(
            "The first convolution looks at colours, so its filters can be looked at. Each is"
            " stretched to the full range of colours by itself.",
            "lead",
        )
    ]
    for architecture in _two(kept):
        of_network = [row for row in kept if row["architecture"] == architecture]
        pictures = []
        for row in _first_of_each_init(of_network, ghn):
            for when, column in (("as it starts", "filters_start"), ("trained", "filters")):
                values = np.array(row[column], np.float32).reshape(row["filters_shape"])
                name = f"{init_name(row['ghn'], ghn)}, {when}"
                alt = f"{len(values)} filters of the first layer of {architecture}, {name}"
                pictures.append(Picture(png(filter_grid(values)), alt, name))
        blocks.append(
            Pictures(
                pictures,
                f"First-layer filters of {architecture}; trained: for"
                f" {of_network[0]['steps']} steps",
            )
        )
    return Section("filters", "First-layer filters", blocks)


def _two(kept: Sequence[Row]) -> list[str]:
    """One architecture of torchvision and one of DeepNets-1M, the first of each."""
    first: dict[bool, str] = {}
    for row in kept:
        first.setdefault(row["split"] == "torchvision", row["architecture"])
    return [first[key] for key in (True, False) if key in first]


def _first_of_each_init(rows: Sequence[Row], ghn: str) -> list[Row]:
    of_init: dict[str, Row] = {}
    for row in rows:
        of_init.setdefault(row["ghn"], row)
    return [of_init[init] for init in in_order(of_init, ghn)]


def sample_images(rows: Sequence[Row], classes: Sequence[str], ghn: str) -> Section | None:
    """Test images with the classes that a network gives them before and after fine-tuning; None
    where none are kept.
    """
    kept = [row for row in sound(rows) if row.get("sample_images")]
    if not kept:
        return None
    architecture = _two(kept)[0]
    chosen = _first_of_each_init([row for row in kept if row["architecture"] == architecture], ghn)
    first = chosen[0]
    size, labels = first["sample_size"], first["sample_labels"]
    pixels = np.frombuffer(base64.b64decode(first["sample_images"]), np.uint8).reshape(
        len(labels), 3, size, size
    )
    pictures = []
    for number, label in enumerate(labels):
        truth = _class(classes, label)
        lines = [
            f"{init_name(row['ghn'], ghn)}: {_class(classes, row['sample_start'][number])} → "
            f"{_class(classes, row['sample_end'][number])} {_mark(row, number, label)}"
            for row in chosen
        ]
        alt = f"Test image of class {truth}. {'; '.join(lines)}"
        pictures.append(Picture(png(np.moveaxis(pixels[number], 0, -1)), alt, truth, tuple(lines)))
    counts = "; ".join(
        f"{init_name(row['ghn'], ghn)} {_right(row, 'sample_start')} before and"
        f" {_right(row, 'sample_end')} after {row['steps']} steps"
        for row in chosen
    )
    return Section(
        "samples",
        "Images, before and after fine-tuning",
        [
            Text(
                f"What {architecture} makes of {len(labels)} test images that it was not chosen on."
                f" Right of {len(labels)}: {counts}.",
                "lead",
            ),
            Pictures(
                pictures,
                "Bold: the true class. Before → after fine-tuning, by initialisation; ✓ right after"
                " it, ✗ wrong.",
            ),
        ],
    )


def _class(classes: Sequence[str], label: int) -> str:
    return classes[label] if label < len(classes) else str(label)


def _mark(row: Row, number: int, label: int) -> str:
    return "✓" if row["sample_end"][number] == label else "✗"


def _right(row: Row, column: str) -> int:
    return sum(a == b for a, b in zip(row[column], row["sample_labels"], strict=True))


def graphs(shown: Sequence[Graph], best: Graph | None = None) -> Section:
    """Pictures of some training architectures as the hypernetwork sees them, and of the network
    that is most accurate without training.
    """
    panels = [
        Figure(
            figures.graph(graph, graph.name),
            f"{graph.name}: {graph.n_nodes} nodes, {len(graph.edges)} edges",
            f"Graph of {graph.name}: {graph.n_nodes} nodes and {len(graph.edges)} edges.",
        )
        for graph in (*shown, *([best] if best else []))
    ]
    last = f" {best.name}: the most accurate of all without training." if best else ""
    return Section(
        "graphs",
        "What the hypernetwork sees",
        [
            Text(
                "A network is a graph to the hypernetwork: a node per operation, an edge where one"
                " uses the other's output. It predicts the parameters of each node from them.",
                "lead",
            ),
            Panels(
                panels,
                f"Some architectures of the training split, from input to classifier.{last}",
            ),
        ],
    )
