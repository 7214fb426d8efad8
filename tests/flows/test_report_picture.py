"""The picture of the pipeline in the report: its arrows are dvc.yaml's, its words the results'."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import networkx as nx
import pytest
import yaml

from flows.orchestration.order import upstream
from flows.report import Figure, pipeline
from flows.report.evaluation import Setting
from flows.rows.schema import identity
from flows.settings.dvcfile import read_stages

ROOT = Path(__file__).resolve().parents[2]
SETTING = Setting("digits", 16, 10, (64, 64), 850_000, 6000, 3000)
SVG = "{http://www.w3.org/2000/svg}"
EMPTY: dict[str, list] = {"predictions": [], "evaluation": [], "finetune": [], "transfer": []}


def row(name: str, split: str, init: str = "ghn3", **columns: object) -> dict:
    return identity(name, split, init, 1, "hash") | columns


TABLES: dict[str, list] = EMPTY | {
    "predictions": [
        row("a", "test", predicted=50, parameters=100),
        row("b", "test", predicted=100, parameters=100),
    ],
    "evaluation": [
        row("a", "test", accuracy=0.6, randinit_accuracy=0.1),
        row("b", "wide", accuracy=0.4, randinit_accuracy=0.2),
        row("resnet18", "torchvision", accuracy=1.0, randinit_accuracy=0.0),
        identity("c", "test", "ghn3", 1, "hash", ValueError("no")),
    ],
    "finetune": [
        row(name, "test", init, test_accuracy=accuracy, selected=True)
        for name in ("a", "b")
        for init, accuracy in (("ghn3", 0.75), ("randinit", 0.5))
    ],
}


def test_the_arrows_are_those_of_dvc_yaml() -> None:
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    before = upstream(read_stages(tree, ROOT / "dvc.yaml"))
    graph = nx.DiGraph()
    for stage, sources in before.items():
        graph.add_node(stage.partition("@")[0])
        graph.add_edges_from((s.partition("@")[0], stage.partition("@")[0]) for s in sources)
    assert set(pipeline.PLACES) == set(graph)
    assert set(pipeline.ARROWS) == set(nx.transitive_reduction(graph).edges)


@pytest.mark.parametrize("drawing", pipeline._DRAWINGS, ids=lambda drawing: drawing.name)
def test_arrows_begin_and_end_at_boxes_and_cross_none(drawing: pipeline._Drawing) -> None:
    width, height = drawing.box
    boxes = {stage: drawing.corner(stage) for stage in pipeline.PLACES}

    def touches(stage: str, x: float, y: float) -> bool:
        left, top = boxes[stage]
        inside = left <= x <= left + width and top <= y <= top + height
        return inside and (x in (left, left + width) or y in (top, top + height))

    for start, end in pipeline.ARROWS:
        points = drawing.arrow(start, end)
        assert touches(start, *points[0])
        assert touches(end, *points[-1])
        for (x1, y1), (x2, y2) in pairwise(points):
            assert x1 == x2 or y1 == y2
            for left, top in boxes.values():
                beside = max(x1, x2) <= left or min(x1, x2) >= left + width
                assert beside or max(y1, y2) <= top or min(y1, y2) >= top + height


def test_a_stage_tells_what_it_gave() -> None:
    told = pipeline.gave(SETTING, TABLES, [{"val_mean": 0.1}, {"val_mean": 0.625}], "ghn3", "ghn3")
    nbsp = "\N{NO-BREAK SPACE}"
    assert told["generate"] == ("6,000 to train on", "3 to measure")
    assert told["images"] == ("digits", "16 px, 10 classes")
    assert told["train"] == ("3,000 steps", f"unseen: 62.5{nbsp}%")
    assert told["predict"] == ("2 networks", f"75.0{nbsp}% predicted")
    assert told["evaluate"] == (f"50.0{nbsp}% untrained", f"random: 15.0{nbsp}%")
    assert told["finetune"] == ("+25.0 points", "2 networks")
    assert told["transfer"] == ("not measured",)
    assert told["report"] == ("this page", "of 10 rows")
    assert list(told) == list(pipeline.PLACES)


def test_failures_and_long_names_fit_in_a_box() -> None:
    failed = [identity(f"n{k}", "test", "ghn3", 1, "h", ValueError("no")) for k in range(12)]
    long = Setting("photos/of/my/cat/and/dog", 32, 1000, (1, 1), 1, 10**6, None)
    told = pipeline.gave(long, EMPTY | {"predictions": failed}, [], "ghn3", "a-very-long-name-of")
    assert told["predict"] == ("12, 12 failed",)
    assert told["images"][0] == "photos/of/my/cat/…"
    assert max(len(line) for lines in told.values() for line in lines) <= pipeline.LETTERS


def test_both_pictures_are_well_formed_in_the_page_s_colours() -> None:
    section = pipeline.pipeline(pipeline.gave(SETTING, TABLES, [], "ghn3", "ghn3 & <kin>"))
    figure = section.blocks[1]
    assert isinstance(figure, Figure)
    pictures = ElementTree.fromstring(f"<page>{figure.svg}</page>")
    assert [picture.get("class") for picture in pictures] == ["wide", "narrow"]
    for picture in pictures:
        texts = [text.text for text in picture.iter(f"{SVG}text")]
        assert {*pipeline.PLACES, "+25.0 points", "ghn3 & <kin>"} <= set(texts)
        assert len(list(picture.iter(f"{SVG}polygon"))) == len(pipeline.ARROWS)
    assert "#" not in figure.svg
    assert "finetune: +25.0 points, 2 networks" in figure.alt
