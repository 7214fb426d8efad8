"""Graphs of DeepNets-1M straight from the architecture, without instantiating or running a network.

A cell's piece of graph depends on few things (normal or reduction, which inputs exist, ...), so it
is laid out once as a template (`templates`) and stamped for every cell; the arrays of all nodes and
edges, of one graph or of hundreds, are then made at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from datasets.deepnets.graphs import templates
from datasets.deepnets.graphs.layout import INPUT_0, STEP, TARGET, Template
from datasets.deepnets.graphs.squeeze_quirk import kept_products
from datasets.deepnets.graphs.structures import Structures
from datasets.deepnets.graphs.templates import Inputs
from datasets.deepnets.space.architecture import Architecture
from datasets.deepnets.space.scaling import Scaling
from datasets.deepnets.space.wiring import wire
from ghn.graph import Graph

CIFAR = Scaling()
"""The sizes at which the published statistics are taken."""


class Assembly:
    """Graphs under construction: templates stamped one after another, graph after graph."""

    def __init__(self) -> None:
        self._n_nodes = 0
        self._first_nodes: list[int] = []
        self._first_segments: list[int] = []
        self._prefixes: list[str] = []
        self._templates: list[Template] = []
        self._widths: list[int] = []
        self._joints: set[int] = set()

    def add(
        self,
        architecture: Architecture,
        scaling: Scaling = CIFAR,
        kept: Sequence[frozenset[int]] | None = None,
    ) -> None:
        """Appends an architecture's graph, in topological order: stem, cells one after another,
        classifier.

        Args:
            architecture: the network.
            scaling: its sizes; they do not change nodes and edges.
            kept: for each cell the products that are nodes; by default those of the reference
                (`squeeze_quirk`).

        Raises:
            InvalidGraphError: the architecture's output is disconnected; nothing is appended.
        """
        wiring = wire(architecture, scaling)
        kept = kept_products(architecture, wiring.routes) if kept is None else kept
        preproc, norm, one_input = (
            architecture.preproc,
            architecture.norm is not None,
            not architecture.two_stems,
        )
        self._first_nodes.append(self._n_nodes)
        self._first_segments.append(len(self._templates))
        stem, first = templates.stem(
            architecture.is_vit, architecture.stem_type, architecture.ks, architecture.stem_pool,
            norm,
            scaling.patch, scaling.patch_grid, wiring.stems[1],
        )  # fmt: skip
        start = self._n_nodes
        last = self._stamp(stem, "", (wiring.stem_channels, 0, 0), [], [])
        outputs = {-2: last if one_input else [start + node for node in first], -1: last}
        # for outputs that are an input passed through: how many cells in a row did so
        passed: dict[int, int] = {}
        known: dict[object, Template] = {}
        for cell in wiring.cells:
            i = cell.number
            # Dead cells have no output; none of their readers is alive either.
            before, previous = outputs.get(i - 2, []), outputs.get(i - 1, [])
            # What makes no difference to the cell stays out of its key: fewer kinds of cells to
            # lay out.
            halve, inputs = preproc and cell.halve_first and cell.route.inputs[0], Inputs.distinct
            if not (preproc or cell.halve_first):
                if i == 0 and one_input:
                    inputs = Inputs.one_tensor
                elif before == previous and passed.get(i - 1) == 1:
                    inputs = Inputs.same_nodes
            key = (cell.reduction, id(cell.route), halve, kept[i], inputs)
            template = known.get(key)
            if template is None:
                template = known[key] = templates.cell(
                    cell.edges, cell.route, preproc, norm, halve, cell.stride > 1, kept[i], inputs
                )
            outputs[i] = self._stamp(
                template, f"cells.{i}.", (cell.channels, *cell.channels_in), before, previous
            )
            if outputs[i] == before:
                passed[i] = passed.get(i - 1, 0) + 1
        value = outputs[architecture.n_cells - 1]
        for i, (n_in, n_out) in enumerate(wiring.classifier):
            layer = templates.classifier_layer(architecture.glob_avg and i == 0, i)
            value = self._stamp(layer, "", (n_out, n_in, 0), value, [])

    def _stamp(
        self,
        template: Template,
        prefix: str,
        widths: tuple[int, int, int],
        before: list[int],
        previous: list[int],
    ) -> list[int]:
        """Appends a template that reads the values `before` (input 0) and `previous` (input 1); its
        output value.
        """
        n, add = self._n_nodes, self._joints.add
        shift = n << TARGET
        for sources, readers in zip((before, previous), template.readers, strict=True):
            for edge in readers:
                for source in sources:
                    add(edge + shift + source)
        self._prefixes.append(prefix)
        self._templates.append(template)
        self._widths += widths
        self._n_nodes += template.n_nodes
        output: list[int] = []
        for node in template.outputs:
            output += [node + n] if node >= 0 else before if node == INPUT_0 else previous
        return output

    def __len__(self) -> int:
        return len(self._first_nodes)

    def finish(self) -> Structures:
        """The graphs, at least one, as arrays."""
        stamped = self._templates
        sizes = np.array([template.n_nodes for template in stamped])
        shift = (np.cumsum(sizes) - sizes) * STEP
        edges = np.concatenate(
            [*[template.inner for template in stamped], np.array([*self._joints], dtype=np.int64)]
        )
        inner = edges[: len(edges) - len(self._joints)]
        inner += np.repeat(shift, [len(template.inner) for template in stamped])
        edges.sort()
        nodes = np.array([*self._first_nodes, self._n_nodes])
        first = np.searchsorted(edges, nodes << TARGET)
        return Structures(
            n_nodes=nodes[1:] - nodes[:-1],
            n_edges=first[1:] - first[:-1],
            kind=np.concatenate([template.kinds for template in stamped]),
            edges=np.stack([edges & ((1 << TARGET) - 1), edges >> TARGET], axis=1),
            sizes=sizes,
            widths=np.array(self._widths, dtype=np.int32).reshape(-1, 3),
            segments=[
                end - begin for begin, end in pairwise([*self._first_segments, len(stamped)])
            ],
            prefixes=self._prefixes,
            templates=stamped,
        )


def build_structures(architectures: Iterable[Architecture]) -> Structures:
    """The graphs of some architectures, at least one.

    Raises:
        InvalidGraphError: an architecture's output is disconnected.
    """
    assembly = Assembly()
    for architecture in architectures:
        assembly.add(architecture)
    return assembly.finish()


def build_structure(architecture: Architecture, kept: Sequence[frozenset[int]]) -> Structures:
    """The graph of one architecture with other products than usual; see `Assembly.add`."""
    assembly = Assembly()
    assembly.add(architecture, kept=kept)
    return assembly.finish()


def build_graph(
    architecture: Architecture,
    channels: int = 32,
    fc_dim: int | None = None,
    num_classes: int = 10,
    image_size: int = 32,
    imagenet_stride: int = 4,
    name: str = "",
) -> Graph:
    """The graph of an architecture.

    Args:
        architecture: the network.
        channels: width C.
        fc_dim: width of the classifier's hidden layers; None for the architecture's own.
        num_classes: number of classes.
        image_size: in pixels.
        imagenet_stride: stride of the simple stem on large images.
        name: of the graph, for messages.

    Raises:
        InvalidGraphError: the architecture's output is disconnected by `none`.
        ConfigError: a size is out of range.
    """
    return scaled_graph(
        architecture, Scaling(channels, fc_dim, num_classes, image_size, imagenet_stride), name
    )


def scaled_graph(architecture: Architecture, scaling: Scaling, name: str = "") -> Graph:
    """`build_graph` with its sizes in one object."""
    return scaled_graphs([architecture], [scaling], [name])[0]


def scaled_graphs(
    architectures: Sequence[Architecture], scalings: Sequence[Scaling], names: Sequence[str]
) -> list[Graph]:
    """Some graphs at once, which is faster than one by one.

    Raises:
        InvalidGraphError: an architecture's output is disconnected by `none`.
    """
    assembly = Assembly()
    for architecture, scaling in zip(architectures, scalings, strict=True):
        assembly.add(architecture, scaling)
    return assembly.finish().graphs(names)
