"""Checks of stored graphs, thousands at a time. Each returns which graphs fail, as a boolean array
(G,).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datasets.deepnets.space.parameters import count_parameters
from datasets.deepnets.space.rules import SplitRules
from datasets.deepnets.space.sampling import rejections
from datasets.deepnets.space.scaling import Scaling
from datasets.deepnets.space.table import ArchitectureTable
from datasets.deepnets.store.pack import GraphPack, offsets, unpack_edges
from ghn.graph import N_PRIMITIVES, Primitive

Failed = NDArray[np.bool_]

_PASSING = [
    int(p)
    for p in (
        Primitive.max_pool,
        Primitive.avg_pool,
        Primitive.sum,
        Primitive.cse,
        Primitive.glob_avg,
    )
]
_LAYERS = [int(p) for p in (Primitive.conv, Primitive.bias, Primitive.bn, Primitive.ln)]
_DEPTHWISE = [int(p) for p in (Primitive.sep_conv, Primitive.dil_conv)]


class Nodes:
    """Flat views of a pack's nodes and edges.

    Attributes:
        graph: (N,) the graph a node belongs to.
        edges: (E, 2) edges, nodes numbered through over all graphs.
    """

    def __init__(self, pack: GraphPack) -> None:
        self.pack = pack
        self.graph = np.repeat(np.arange(len(pack)), pack.n_nodes)
        self.start = offsets(pack.n_nodes)
        self.edges = unpack_edges(pack.in_degree, pack.back).astype(np.int64)

    def any_by_graph(self, bad_nodes: NDArray[np.bool_]) -> Failed:
        """Which graphs have a bad node."""
        found: Failed = np.bincount(self.graph[bad_nodes], minlength=len(self.pack)) > 0
        return found

    def any_edge_by_graph(self, bad_edges: NDArray[np.bool_]) -> Failed:
        """Which graphs have a bad edge."""
        found: Failed = (
            np.bincount(self.graph[self.edges[bad_edges, 1]], minlength=len(self.pack)) > 0
        )
        return found


def edge_count(pack: GraphPack) -> Failed:
    """The in-degrees of a graph add up to its number of edges."""
    graph = np.repeat(np.arange(len(pack)), pack.n_nodes)
    total = np.bincount(graph, weights=pack.in_degree, minlength=len(pack))
    wrong: Failed = total != pack.n_edges
    return wrong


def primitive_range(nodes: Nodes) -> Failed:
    """Every node has one of the 15 primitives."""
    return nodes.any_by_graph(nodes.pack.primitive >= N_PRIMITIVES)


def one_input(nodes: Nodes) -> Failed:
    """Node 0 is the input and there is no other."""
    is_input = nodes.pack.primitive == Primitive.input
    expected = np.zeros_like(is_input)
    expected[nodes.start[:-1]] = True
    return nodes.any_by_graph(is_input != expected)


def topological_order(nodes: Nodes) -> Failed:
    """Every edge goes from an earlier node of the same graph to a later one, once: there is no
    cycle.
    """
    source, target = nodes.edges.T
    bad = (source >= target) | (source < nodes.start[nodes.graph[target]])
    key = target << 32 | source
    repeated = np.zeros(len(key), dtype=bool)
    order = np.argsort(key, kind="stable")
    repeated[order[1:]] = key[order[1:]] == key[order[:-1]]
    return nodes.any_edge_by_graph(bad | repeated)


def connected(nodes: Nodes) -> Failed:
    """The input reaches every node but positional encodings, and every node reaches the output, the
    last one.

    In topological order it is enough that every other node has a predecessor that is no positional
    encoding, and a successor.
    """
    pack = nodes.pack
    source, target = nodes.edges.T
    encoding = pack.primitive == Primitive.pos_enc
    reached = np.zeros(len(pack.primitive), dtype=bool)
    reached[target[~encoding[source]]] = True
    reached |= encoding
    reached[nodes.start[:-1]] = True
    leads_on = np.zeros_like(reached)
    leads_on[source] = True
    leads_on[nodes.start[1:] - 1] = True
    return nodes.any_by_graph(~(reached & leads_on))


def shape_consistency(nodes: Nodes, shape: NDArray[np.int32], exact: NDArray[np.bool_]) -> Failed:
    """The channels that a layer reads are those that its predecessors write, after pooling, sums
    and concatenations.

    With `none` a cell's output may be filled up with zeros, and with squeeze-and-excitation the
    published graphs leave out some products, so that a concatenation has edges from both factors.
    There only edges between layers are checked, for a multiple.

    Args:
        nodes: the graphs.
        shape: (N, 4) their parameters' shapes at C = 32.
        exact: (G,) graphs with neither.
    """
    primitive, (source, target) = nodes.pack.primitive, nodes.edges.T
    layer, depthwise = np.isin(primitive, _LAYERS), np.isin(primitive, _DEPTHWISE)
    passing, concat = np.isin(primitive, _PASSING), primitive == Primitive.concat
    written = np.where(layer | depthwise, shape[:, 0], 0)
    written[primitive == Primitive.input] = 3
    written[primitive == Primitive.pos_enc] = shape[primitive == Primitive.pos_enc, 1]
    matrix = shape[:, 1] > 0
    read = np.where(layer & matrix, shape[:, 1], np.where(layer | depthwise, shape[:, 0], 0))
    first = np.zeros(len(primitive), dtype=np.int64)
    order = np.argsort(target, kind="stable")[::-1]
    first[target[order]] = source[order]
    waiting = np.flatnonzero(passing | concat | (primitive == Primitive.msa))
    into = np.flatnonzero(concat[target])
    while len(waiting):
        known = written[first[waiting]] > 0
        is_concat = concat[waiting]
        if is_concat.any():
            missing = np.bincount(
                target[into], weights=written[source[into]] == 0, minlength=len(primitive)
            )
            known &= ~is_concat | (missing[waiting] == 0)
        ready = waiting[known]
        if not len(ready):
            break
        value = written[first[ready]]
        value = np.where(primitive[ready] == Primitive.msa, value // 3, value)
        if is_concat.any():
            total = np.bincount(
                target[into], weights=written[source[into]], minlength=len(primitive)
            ).astype(np.int64)
            value = np.where(concat[ready], total[ready], value)
        written[ready] = value
        waiting = waiting[~known]
    checked = (read[target] > 0) & (written[source] > 0)
    differs = read[target] != written[source]
    multiple = read[target] % np.maximum(written[source], 1) == 0
    flattened = (
        (primitive[target] == Primitive.conv) & matrix[target] & (shape[target, 2] == 0) & multiple
    )
    is_exact = exact[nodes.graph[target]]
    inexact = ~is_exact & (multiple | passing[source] | concat[source])
    sums = (primitive[target] == Primitive.sum) & (written[target] != written[source]) & is_exact
    wrong = (checked & differs & ~flattened & ~inexact) | sums
    return nodes.any_edge_by_graph(wrong) | nodes.any_by_graph(written == 0)


def parameter_counts(table: ArchitectureTable, n_params: NDArray[np.int64]) -> Failed:
    """The recorded numbers of parameters are right."""
    counts = [count_parameters(table, Scaling(image_size=size)) for size in (32, 224)]
    wrong: Failed = np.asarray((np.stack(counts, axis=1) != n_params).any(axis=1))
    return wrong


def parameter_cap(n_params: NDArray[np.int64], rules: SplitRules) -> Failed:
    """No network is larger than the split allows."""
    above: Failed = n_params.max(axis=1) > rules.max_parameters
    return above


def drawing_rules(table: ArchitectureTable, rules: SplitRules) -> Failed:
    """Every drawn quantity is in its range, and no rejection rule applies."""
    steps, vit, deep = table.steps, table.has("msa"), table.n_cells > rules.deep_from[1]
    fewest, most = rules.n_cells
    bad: Failed = np.zeros(len(table), dtype=np.bool_)
    bad |= (table.n_cells < fewest) | (table.n_cells > most)
    bad |= (steps < rules.steps[0]) | (steps > np.where(deep, rules.max_steps_deep, rules.steps[1]))
    bad |= (
        ~np.isin(table.ks, (3, 5, 7))
        | ~np.isin(table.C_mult, (1, 2))
        | ~np.isin(table.fc_layers, (1, 2))
    )
    bad |= ~table.preproc & ((steps > 1) | (table.C_mult > 1))
    bad |= ~table.preproc & np.where(vit, rules.preproc_msa == 1, rules.preproc_plain == 1)
    bad |= ~table.glob_avg & (vit | deep)
    bad |= table.stem_pool & (table.stem_type != 0)
    if rules.norm == "always":
        bad |= ~table.norm
    elif rules.norm == "never":
        bad |= table.norm
    elif rules.norm == "mixed":
        bad |= ~table.norm & (table.n_cells > fewest + 1)
    # the last sum is never dropped
    bad |= (table.concat >> (steps[:, None].astype(np.uint16) - 1) & 1 == 0).any(axis=1)
    bad |= table.has("none") & (steps == 1)
    for reason in rejections(rules, table)[0].values():
        bad |= reason
    return bad
