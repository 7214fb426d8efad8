"""Statistics of a split next to the published ones (paper table 3 and Knyazev et al., 2021, table
1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.deepnets.graphs.builder import build_structure
from datasets.deepnets.graphs.split import Split
from datasets.deepnets.graphs.squeeze_quirk import every_product
from datasets.deepnets.store.pack import unpack_edges
from ghn.graph import Graph


class MeanStd(NamedTuple):
    """Mean and standard deviation over graphs."""

    mean: float
    std: float


@dataclass(frozen=True)
class SplitStatistics:
    """Number of nodes, average degree and average shortest path of the undirected graphs.

    Attributes:
        graphs: number of graphs the node counts are of.
        sampled: number of graphs that all but the node counts are of.
        nodes_min: fewest nodes.
        nodes_max: most nodes.
        nodes: number of nodes.
        degree: average degree.
        path: average shortest path.
        products: squeeze-and-excitation products that are no nodes (`squeeze_quirk`). The published
            table counts them: its graphs were made with the first version of the code, which has no
            such quirk.
    """

    graphs: int
    sampled: int
    nodes_min: int
    nodes_max: int
    nodes: MeanStd
    degree: MeanStd
    path: MeanStd
    products: MeanStd


def _published(n: int, low: int, high: int, *values: float) -> SplitStatistics:
    nodes, degree, path = (MeanStd(*values[i : i + 2]) for i in (0, 2, 4))
    return SplitStatistics(n, n, low, high, nodes, degree, path, MeanStd(0.0, 0.0))


PUBLISHED_STATISTICS = {
    "train": _published(1000, 35, 681, 192.3, 94.9, 2.3, 0.1, 14.5, 4.8),
    "val": _published(500, 33, 549, 190.5, 94.4, 2.3, 0.1, 14.5, 5.0),
    "test": _published(500, 43, 579, 185.5, 91.2, 2.3, 0.1, 14.3, 4.8),
    "wide": _published(100, 48, 381, 178.6, 75.1, 2.3, 0.1, 14.7, 4.9),
    "deep": _published(100, 74, 1017, 391.2, 176.7, 2.3, 0.1, 26.2, 9.3),
    "dense": _published(100, 57, 993, 355.1, 182.3, 2.4, 0.1, 15.1, 4.1),
    "bnfree": _published(100, 33, 503, 135.1, 78.1, 2.4, 0.1, 10.0, 2.8),
}
"""The published statistics; those of train are of 1,000 of its graphs."""

STANDARD_ERRORS = 3.0
"""How far two samples' means may lie apart."""


def split_statistics(split: Split, sample: int, seed: int = 0) -> SplitStatistics:
    """Statistics of a split: node counts of all graphs, the rest of `sample` of them at most."""
    n = len(split)
    chosen = np.sort(np.random.default_rng([seed, 5]).permutation(n)[:sample])
    values = np.array([_of_graph(split, int(i)) for i in chosen])
    n_nodes = split.n_nodes
    return SplitStatistics(
        graphs=n,
        sampled=len(chosen),
        nodes_min=int(n_nodes.min()),
        nodes_max=int(n_nodes.max()),
        nodes=_mean_std(n_nodes.astype(np.float64)),
        degree=_mean_std(values[:, 0]),
        path=_mean_std(values[:, 1]),
        products=_mean_std(values[:, 2]),
    )


def _of_graph(split: Split, index: int) -> tuple[float, float, int]:
    """Degree, path and left-out products."""
    graph, architecture = _graph(split, index), split[index]
    left_out = 0
    if split.header.origin == "generated" and "cse" in architecture.genotype.operations:
        left_out = (
            int(build_structure(architecture, kept=every_product(architecture)).n_nodes[0])
            - graph.n_nodes
        )
    statistics = graph.statistics()
    return statistics["degree"], statistics["path"], left_out


def _graph(split: Split, index: int) -> Graph:
    """A graph of which only the edges matter, the fastest way; `validate` proves that both ways
    lead to the same.
    """
    if split.header.origin == "generated":
        return split.graph(index)
    block = split.stored(index, index + 1)
    edges = unpack_edges(block.graphs.in_degree, block.graphs.back)
    n = len(block.graphs.primitive)
    return Graph(
        block.graphs.primitive, edges, np.zeros((n, 4), np.int32), [""] * n, split.identifier(index)
    )


def _mean_std(values: NDArray[np.float64]) -> MeanStd:
    return MeanStd(float(values.mean()), float(values.std()))


def disagreements(split: str, ours: SplitStatistics) -> list[str]:
    """Where a split's statistics differ from the published ones by more than sampling explains.

    The mean number of nodes, left-out products included, may differ by the standard errors of both
    samples, in train by 5% and our standard error (why it is below the published one:
    `docs/deepnets1m.md`). The mean degree may differ by 0.1, the mean path by 5%, or by the
    standard errors if the sample is small.
    """
    theirs = PUBLISHED_STATISTICS[split]

    def error(a: MeanStd, b: MeanStd, n: int) -> float:
        return STANDARD_ERRORS * math.sqrt(a.std**2 / n + b.std**2 / theirs.graphs)

    nodes = ours.nodes._replace(mean=ours.nodes.mean + ours.products.mean)
    ours = replace(ours, nodes=nodes)
    sampling = STANDARD_ERRORS * nodes.std / math.sqrt(ours.graphs)
    allowed = {
        "nodes": (
            0.05 * theirs.nodes.mean + sampling
            if split == "train"
            else error(nodes, theirs.nodes, ours.graphs)
        ),
        "degree": 0.1,
        "path": max(0.05 * theirs.path.mean, error(ours.path, theirs.path, ours.sampled)),
    }
    return [
        f"mean {name} is {getattr(ours, name).mean:.2f}, published {getattr(theirs, name).mean},"
        f" allowed ±{limit:.2f}"
        for name, limit in allowed.items()
        if abs(getattr(ours, name).mean - getattr(theirs, name).mean) > limit
    ]
