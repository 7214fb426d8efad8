"""`ghn graph`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from datasets.deepnets import GenerateConfig, generate_split, open_split
from flows.commands.graph import graph_app, trace
from ghn.errors import ConfigError, UnknownArchitectureError

ROOT = Path(__file__).resolve().parents[2]
app = typer.Typer()
app.add_typer(graph_app, name="graph")
app.command()(trace)


def call(*arguments: object) -> str:
    command = [] if arguments[0] == "trace" else ["graph"]
    result = CliRunner().invoke(app, [*command, *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.stdout


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("deepnets")
    generate_split(path, "test", GenerateConfig(splits={"test": {"size": 6}}))
    return path


def test_export_is_one_line_with_the_golden_keys(directory, tmp_path):
    lines = call("export", "--split", "test", "--index", 3, "--directory", directory).splitlines()
    assert len(lines) == 1
    graph = json.loads(lines[0])
    assert set(graph) == {"primitive", "param", "shape", "edges"}
    split = open_split(directory, "test")
    assert graph == json.loads(json.dumps(split.graph(3).to_json_dict()))
    file = tmp_path / "args.json"
    file.write_text(json.dumps(split[3].to_dict()))
    assert json.loads(call("export", "--args", file)) == graph
    file.write_text(json.dumps({"args": split[3].to_dict(), "split": "test"}))
    assert json.loads(call("export", "--args", file)) == graph


def test_torchvision_names_export(directory):
    graph = json.loads(call("export", "squeezenet1_1"))
    assert graph["primitive"][0] == "input"
    assert "features.0.weight" in graph["param"]


def test_trace_describes_and_draws(directory, tmp_path):
    picture = tmp_path / "graph.png"
    text = call("trace", "test", 2, "--directory", directory, "--out", picture)
    assert "deepnets1m/test/2" in text
    assert open_split(directory, "test").graph(2).canonical_hash() in text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_own_splits_are_known(directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call("publish", "test", tmp_path, "--directory", directory)
    call("import", "deepnets1m_test.hdf5", "--split", "test", "--directory", tmp_path)
    for suffix in ("h5", "parquet", "digest.json"):
        (tmp_path / f"test.{suffix}").rename(tmp_path / f"imported.{suffix}")
    with pytest.raises(ConfigError, match="`imported` is a split"):
        call("trace", "imported", "--directory", tmp_path)
    params = (ROOT / "params.yaml").read_text().replace("bnfree: {}", "mine: {size: 3}")
    (tmp_path / "params.yaml").write_text(params)
    with pytest.raises(ConfigError, match="`ghn generate --split mine`"):
        call("trace", "mine", 0, "--directory", tmp_path)


def test_images_have_at_least_eight_pixels(directory):
    with pytest.raises(SystemExit):
        call("trace", "test", 2, "--directory", directory, "--image-size", 7)


def test_gallery_has_a_picture_per_architecture(directory, tmp_path):
    page = tmp_path / "gallery.html"
    call("gallery", "test", "--count", 2, "--first", 1, "--directory", directory, "--out", page)
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 2
    assert "deepnets1m/test/1" in text
    links = set(re.findall(r'href="#(\S+)"', text))
    assert links == set(re.findall(r' id="(\S+)"', text)) == {"graph-1", "graph-2"}


def test_publish_and_import_round_trip(directory, tmp_path):
    call("publish", "test", tmp_path, "--directory", directory)
    text = call(
        "import",
        tmp_path / "deepnets1m_test.hdf5",
        "--split",
        "test",
        "--directory",
        tmp_path / "store",
    )
    assert "6 graphs in" in text
    with pytest.raises(ConfigError, match="--force replaces it"):
        call(
            "import",
            tmp_path / "deepnets1m_test.hdf5",
            "--split",
            "test",
            "--directory",
            tmp_path / "store",
        )


def test_bad_requests_are_named(directory, tmp_path):
    with pytest.raises(ConfigError, match="name one architecture"):
        call("export")
    with pytest.raises(ConfigError, match="name one architecture"):
        call("export", "resnet18", "--split", "test", "--index", 1)
    with pytest.raises(UnknownArchitectureError, match=r"0\.\.5, not 6"):
        call("export", "--split", "test", "--index", 6, "--directory", directory)
    with pytest.raises(ConfigError, match="no split is called 'resnet18'; known: train, val, test"):
        call("trace", "resnet18", 3, "--directory", directory)
    with pytest.raises(ConfigError, match="no split is called 'foo'; known"):
        call("trace", "deepnets1m/foo/3", "--directory", directory)
    for command in (["gallery", "tst"], ["publish", "tst", tmp_path]):
        with pytest.raises(ConfigError, match="no split is called 'tst'; known"):
            call(*command, "--directory", directory)
    with pytest.raises(ConfigError, match="generate the split with `ghn generate --split wide`"):
        call("trace", "wide", 0, "--directory", directory)
    with pytest.raises(ConfigError, match=r"`test` is a split: .*`ghn trace test 0`"):
        call("trace", "test", "--directory", directory)
    with pytest.raises(ConfigError, match="cannot be read"):
        call("export", "--args", tmp_path / "none.json")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        call("export", "--args", broken)
