"""Cells that only pass their inputs on: which sums the reference leaves out."""

from __future__ import annotations

import pytest

from datasets.deepnets import Architecture, build_graph
from ghn.graph import Primitive


def architecture(n_cells: int) -> Architecture:
    """Cells of two skip connections before the first reduction cell, without preprocessing."""
    return Architecture.from_dict(
        {
            "genotype": {
                "normal": [["skip_connect", 1], ["skip_connect", 0]],
                "normal_concat": [2],
                "reduce": [["msa", 0], ["sep_conv_5x5", 1]],
                "reduce_concat": [2],
            },
            "n_cells": n_cells, "ks": 7, "C_mult": 1, "preproc": False, "glob_avg": True,
            "norm": "bnorm",
            "stem_type": 0, "stem_pool": True, "fc_layers": 1, "fc_dim": 256,
        }
    )  # fmt: skip


@pytest.mark.parametrize(("n_cells", "sums"), [(4, 0), (6, 0), (9, 1), (14, 2)])
def test_the_first_two_sums_of_one_tensor_are_left_out_and_the_third_has_one_edge(
    n_cells: int, sums: int
) -> None:
    graph = build_graph(architecture(n_cells))
    graph.validate()
    stem = 3  # input, conv, pos_enc, their sum
    first_layer = next(i for i, name in enumerate(graph.param) if name.startswith("cells."))
    between = range(stem + 1, first_layer)
    assert [graph.primitive[i] for i in between] == [Primitive.sum] * sums
    sources = [sorted(graph.edges[graph.edges[:, 1] == i, 0].tolist()) for i in between]
    assert sources == [[stem], [stem, stem + 1]][:sums]
    assert len({tuple(edge) for edge in graph.edges.tolist()}) == len(graph.edges)
