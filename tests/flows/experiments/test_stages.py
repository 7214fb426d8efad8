"""experiments/dvc.yaml: what the profile says, and what DVC makes of it."""

import os
import re
from pathlib import Path

import pytest
import yaml

from flows.experiments.catalogue import load_profile, profile_path
from flows.experiments.stages import FILE, text_of, write_stages
from ghn.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


def test_the_file_is_that_of_the_laptop_profile():
    assert (ROOT / FILE).read_text() == text_of("laptop"), "run `ghn experiments stages`"


@pytest.mark.parametrize("name", ["laptop", "paper", "tiny"])
def test_every_entry_and_hypernetwork_has_a_stage_with_what_it_reads(name):
    profile = load_profile(name)
    stages = yaml.safe_load(text_of(name))["stages"]
    assert stages["hypernetwork"]["foreach"] == list(profile.hypernetworks)
    for entry_name, entry in profile.experiments.items():
        groups = [
            group
            for group in ("measured", "compared")
            if entry_name in stages.get(group, {"foreach": ()})["foreach"]
        ]
        assert len(groups) == (entry.kind != "derived"), entry_name
        for group in groups:
            deps = set(stages[group]["do"]["deps"])
            assert {f"results/experiments/{need}.parquet" for need in entry.needs} <= deps
            assert {f"models/{ghn}/ghn.safetensors" for ghn in profile.hypernetworks} <= deps
            assert {"ghn", "datasets", "flows"} <= deps
            assert f"results/experiments/{entry_name}.parquet" in stages["pages"]["deps"]


def test_dvc_reads_it_and_orders_it_after_the_pipeline(monkeypatch):
    from dvc.repo import Repo

    monkeypatch.chdir(ROOT)
    profile = load_profile("laptop")
    with Repo(str(ROOT)) as repo:
        stages = {
            stage.name: stage for stage in repo.index.stages if Path(stage.path) == ROOT / FILE
        }
        graph = repo.index.graph
        with_rows = [name for name, entry in profile.experiments.items() if entry.kind != "derived"]
        assert {name.replace("measured@", "").replace("compared@", "") for name in stages} == {
            *with_rows,
            *(f"hypernetwork@{ghn}" for ghn in profile.hypernetworks),
            "pages",
            "sources",
        }
        before = {stage.name for stage in graph.successors(stages["compared@table19"])}
        assert {"measured@truth", "hypernetwork@x-ghn3", "generate@test", "validate"} <= before
        main = [stage for stage in repo.index.stages if Path(stage.path) == ROOT / "dvc.yaml"]
        assert not any(
            after in stages.values() for stage in main for after in graph.successors(stage)
        )


def entry(kind, *needs, **fields):
    told = {"title": "t", "paper": "p", "difference": "d", "needs": list(needs)}
    return {"kind": kind, **told, **fields}


def test_a_profile_of_one_s_own_has_all_that_its_entries_read(tmp_path, monkeypatch):
    select = {"best_of": "h", "splits": ["test"]}
    own = {
        "images": {"name": "digits", "image_size": 16},
        "num_classes": 10,
        "hypernetworks": {"h": {"train": {"split": "small"}}},
        "experiments": {
            "nas": entry("nas", "truth", truth="truth"),
            "truth": entry("trials", "generalisation", select=select, inits=["h"], parts=[{}]),
            "generalisation": entry(
                "generalisation", ghns=["h"], architectures={"splits": ["test"]}
            ),
            "named": entry("activations", inits=["h"], names=["deepnets1m/wide/3"]),
            "speed": entry("speed", variants={"a": {"split": "other"}}),
        },
    }
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(yaml.safe_dump(own))
    stages = yaml.safe_load(text_of("own.yaml"))["stages"]
    assert {name: one["foreach"] for name, one in stages.items() if "foreach" in one} == {
        "hypernetwork": ["h"],
        "measured": ["generalisation", "named", "speed"],
        "compared": ["truth"],
        "compared2": ["nas"],
    }
    reads = {name: one["do"]["deps"] for name, one in stages.items() if "do" in one}
    assert "results/experiments/truth.parquet" in reads["compared2"]
    assert "data/deepnets1m/small.h5" in reads["hypernetwork"]
    for split in ("test", "wide", "other"):
        assert f"data/deepnets1m/{split}.h5" in reads["measured"]


def test_a_profile_may_leave_out_what_has_a_default(tmp_path, monkeypatch):
    own = {
        "images": {"name": "digits", "image_size": 16},
        "num_classes": 10,
        "hypernetworks": {"h": {}},
        "experiments": {"a": entry("activations", inits=["h"], names=["resnet18"])},
    }
    monkeypatch.chdir(tmp_path)
    Path("my own.yaml").write_text(yaml.safe_dump(own))
    stages = yaml.safe_load(text_of("my own.yaml"))["stages"]
    # DVC refuses parameters that the file does not have
    read = {name: stages[name]["do"]["params"] for name in ("hypernetwork", "measured")}
    assert read == {
        "hypernetwork": [{"my own.yaml": ["num_classes", "images", "hypernetworks.${item}"]}],
        "measured": [{"my own.yaml": ["num_classes", "images", "experiments.${item}"]}],
    }
    assert stages["sources"]["cmd"].endswith(" --profile 'my own.yaml'")


def test_writing_again_changes_nothing(tmp_path):
    path = write_stages("tiny", tmp_path / "dvc.yaml")
    before = path.stat().st_mtime_ns
    write_stages("tiny", path)
    assert path.stat().st_mtime_ns == before
    write_stages("laptop", path)
    assert "tiny" not in path.read_text()


def test_the_page_names_stages_that_exist():
    page = (ROOT / "docs/experiments.md").read_text()
    stages = yaml.safe_load(text_of("laptop"))["stages"]
    named = re.findall(r"experiments/dvc\.yaml:(\w+)@?([\w-]*)", page)
    named += re.findall(r"`(hypernetwork|measured|compared)@([\w-]+)`", page)
    assert len(named) >= 5
    for group, item in named:
        assert item in stages[group].get("foreach", [""]), (group, item)


def test_a_profile_outside_of_the_tree_is_refused(tmp_path):
    profile = tmp_path / "mine.yaml"
    profile.write_text(profile_path("tiny").read_text())
    for name in (profile, os.path.relpath(profile)):
        with pytest.raises(ConfigError, match=rf"{name} is outside of .*copy it there"):
            text_of(str(name))
    roundabout = text_of("params/../params/experiments/tiny.yaml")
    assert "- params/experiments/tiny.yaml\n" in roundabout
    assert "- params/.." not in roundabout
