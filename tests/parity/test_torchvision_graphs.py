"""Graphs of torchvision's networks are those of the reference (`golden/torchvision.jsonl`), and the
paper's table 3.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from ghn.architectures import TORCHVISION_74, build
from ghn.graph import Graph, Primitive
from ghn.tracing import trace

pytestmark = pytest.mark.golden

REFERENCE_SUMMARY = {
    "squeezenet1_0": (65, 72, 33300),
    "mobilenet_v3_small": (125, 139, 137909),
    "shufflenet_v2_x1_0": (133, 148, 118316),
    "vgg13": (33, 32, 5984),
    "vgg13_bn": (43, 42, 13244),
    "vgg19": (45, 44, 15180),
    "resnet34": (93, 108, 46068),
    "mobilenet_v3_large": (148, 165, 216605),
    "densenet121": (307, 841, 416909),
    "vit_b_32": (152, 175, 143586),
    "regnet_y_800mf": (182, 209, 220565),
    "vit_l_32": (296, 343, 887795),
    "inception_v3": (228, 262, 382500),
    "efficientnet_b0": (191, 215, 386489),
    "regnet_x_3_2gf": (189, 213, 267876),
    "wide_resnet101_2": (246, 278, 536995),
    "regnet_x_8gf": (175, 197, 217432),
    "regnet_x_16gf": (168, 189, 196310),
    "regnet_x_32gf": (175, 197, 218416),
    "swin_t": (170, 193, 214589),
    "swin_s": (326, 373, 1110655),
    "efficientnet_b5": (463, 533, 2249267),
    "efficientnet_b6": (535, 617, 2907774),
    "efficientnet_v2_s": (409, 473, 1842601),
    "efficientnet_v2_l": (816, 949, 6273263),
}
"""Nodes, edges and sum of distances of the reference's graphs of the networks that the golden file
leaves out.
"""


@pytest.fixture(scope="module")
def golden(golden_root: Path) -> dict[str, dict[str, Any]]:
    with (golden_root / "torchvision.jsonl").open() as lines:
        return {record["arch"]: record for record in map(json.loads, lines)}


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    return {name: trace(build(name, device="meta")) for name in TORCHVISION_74}


def as_networkx(primitive: list[str], param: list[str], edges: list[list[int]]) -> nx.DiGraph:
    graph: nx.DiGraph = nx.DiGraph()
    graph.add_nodes_from(
        (node, {"label": label}) for node, label in enumerate(zip(primitive, param, strict=True))
    )
    graph.add_edges_from(edges)
    return graph


@pytest.mark.parametrize("name", TORCHVISION_74)
def test_isomorphic_to_the_reference(
    name: str, golden: dict[str, dict[str, Any]], graphs: dict[str, Graph]
) -> None:
    graph = graphs[name]
    graph.validate()
    if name not in golden:
        summary = (graph.n_nodes, len(graph.edges), int(graph.distance.sum(dtype=np.int64)))
        assert summary == REFERENCE_SUMMARY[name]
        return
    record = golden[name]
    ours = graph.to_json_dict()
    assert graph.n_nodes == len(record["primitive"])
    assert len(ours["edges"]) == len(record["edges"])
    isomorphic = nx.is_isomorphic(
        as_networkx(ours["primitive"], ours["param"], ours["edges"]),
        as_networkx(record["primitive"], record["param"], record["edges"]),
        node_match=lambda a, b: a["label"] == b["label"],
    )
    assert isomorphic
    assert int(graph.distance.sum(dtype=np.int64)) == record["dist_sum"]
    assert int(graph.distance.max()) == record["dist_max"]
    statistics = graph.statistics()
    assert statistics["degree"] == pytest.approx(record["avg_degree"])
    assert statistics["path"] == pytest.approx(record["avg_path"])


def test_class_heads_are_where_the_reference_looks(
    golden: dict[str, dict[str, Any]], graphs: dict[str, Graph]
) -> None:
    for name, graph in graphs.items():
        if name in golden:
            assert list(graph.param[-2:]) == golden[name]["param"][-2:]
        weight = graph.n_nodes - 2
        assert graph.primitive[weight] == Primitive.conv
        assert graph.param_shape(weight)[0] == 1000
        assert len(graph.param_shape(weight)) == 2
        assert graph.param_shape(weight + 1) == (1000,)


def test_statistics_of_the_pytorch_split(graphs: dict[str, Graph]) -> None:
    """Paper table 3: average degree 2.5 ± 1.2 (1.9 - 9.1), average path 16 ± 6 (6.8 - 37)."""
    statistics = [graph.statistics() for graph in graphs.values()]
    degree = np.array([entry["degree"] for entry in statistics])
    path = np.array([entry["path"] for entry in statistics])
    assert len(statistics) == 74
    assert (round(degree.mean(), 1), round(degree.std(), 1)) == (2.5, 1.2)
    assert (round(degree.min(), 1), round(degree.max(), 1)) == (1.9, 9.1)
    assert (round(path.mean()), round(path.std())) == (16, 6)
    assert (round(path.min(), 1), round(path.max())) == (6.8, 37)


def test_pooling_windows(graphs: dict[str, Graph]) -> None:
    windows = {
        graphs["inception_v3"].param_shape(node)
        for node in np.flatnonzero(
            np.isin(graphs["inception_v3"].primitive, (Primitive.max_pool, Primitive.avg_pool))
        )
    }
    assert windows == {(1, 1, 3, 3), (1, 1, 5, 5)}  # 5 x 5 before the auxiliary head
    densenet = graphs["densenet121"]
    assert {
        densenet.param_shape(node)
        for node in np.flatnonzero(densenet.primitive == Primitive.avg_pool)
    } == {(1, 1, 2, 2)}


def test_positional_encoding_is_a_square(graphs: dict[str, Graph]) -> None:
    graph = graphs["vit_b_16"]
    node = list(graph.param).index("encoder.pos_embedding")
    assert graph.param_shape(node) == (1, 768, 14, 14)
