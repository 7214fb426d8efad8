"""Pictures: a layout without collisions, every primitive told apart twice, errors for bad paths."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ghn.architectures import build
from ghn.cli import app
from ghn.errors import ConfigError
from ghn.graph import Graph, Primitive
from ghn.graph.drawing import STYLE, draw, layout
from ghn.tracing import trace


@pytest.fixture(scope="module", params=["alexnet", "googlenet", "vit_b_32", "densenet121"])
def graph(request: pytest.FixtureRequest) -> Graph:
    return trace(build(request.param, device="meta"))


def test_edges_lead_down_or_to_the_right(graph: Graph) -> None:
    x_N, y_N, column_N = layout(graph)
    source, target = graph.edges.T
    same = column_N[source] == column_N[target]
    assert (y_N[source] > y_N[target])[same].all()
    assert (column_N[source] < column_N[target])[~same].all()
    assert (x_N[source] < x_N[target])[~same].all()


def test_nodes_do_not_collide(graph: Graph) -> None:
    spacing = (0.4, 0.2)
    x_N, y_N, _ = layout(graph, spacing)
    dx, dy = np.abs(x_N[:, None] - x_N), np.abs(y_N[:, None] - y_N)
    apart = (dx >= spacing[0] - 1e-9) | (dy >= spacing[1] - 1e-9)
    assert apart[~np.eye(graph.n_nodes, dtype=bool)].all()


def test_large_graphs_fill_a_page() -> None:
    x_N, y_N, _ = layout(trace(build("efficientnet_v2_l", device="meta")))
    assert 0.4 < np.ptp(y_N) / np.ptp(x_N) < 1.5


def test_primitives_are_told_apart() -> None:
    assert set(STYLE) == set(Primitive)
    assert len(set(STYLE.values())) == len(Primitive)
    assert len({marker for _, marker in STYLE.values()}) >= 12  # also without colours


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "pictures" / f"alexnet.{suffix}"
    draw(trace(build("alexnet", device="meta")), path, title="AlexNet")
    assert path.read_bytes().startswith(
        {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    )
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_labels_name_the_parameters() -> None:
    graph = trace(build("alexnet", device="meta"))
    texts = [text.get_text() for text in draw(graph).axes[0].texts]
    assert texts == [
        param or Primitive(kind).name
        for param, kind in zip(graph.param, graph.primitive, strict=True)
    ]
    assert list(draw(graph, labels=False).axes[0].texts) == []


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no picture format is called 'doc'"):
        draw(trace(build("alexnet", device="meta")), tmp_path / "graph.doc")
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path: Path) -> None:
    picture, data = tmp_path / "graph.svg", tmp_path / "graph.json"
    for out in (picture, data):
        result = CliRunner().invoke(
            app, ["trace", "resnet18", "--image-size", "32", "--out", str(out)]
        )
        assert result.exit_code == 0, result.output
        assert "resnet18: 52 nodes" in result.output
    assert "resnet18" in picture.read_text()
    written = json.loads(data.read_text())
    assert len(written["primitive"]) == len(written["param"]) == len(written["shape"]) == 52
    assert (
        CliRunner()
        .invoke(app, ["trace", "alexnet", "--out", str(tmp_path / "graph.xyz")])
        .exit_code
        == 2
    )
