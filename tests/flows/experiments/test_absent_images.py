"""Experiments on images that are not there: they fail, unless their entry allows it."""

import json
from pathlib import Path

import pytest

from flows.experiments.catalogue import load_profile
from flows.experiments.runner import Runner, path_of
from flows.experiments.sources import write_sources
from flows.params import load_params
from flows.rows.schema import read_rows
from ghn.errors import MissingDataError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GHN_DATA_ROOT", str(tmp_path / "nothing"))
    params = load_params(ROOT / "params.yaml")
    return Runner("tiny", load_profile("tiny"), params, params.fanout)


def test_detection_without_its_images(runner: Runner) -> None:
    entry = runner.profile.experiments["table8"]
    with pytest.raises(MissingDataError, match=r"experiments\.table8\.optional"):
        runner.run_one("table8", entry.model_copy(update={"optional": False}))
    assert not path_of("table8").exists()
    runner.run_one("table8", entry)
    rows = read_rows(path_of("table8"))
    assert len(rows) == len(entry.detect.inits) * entry.detect.seeds * len(entry.detect.backbones)
    assert all("Penn-Fudan" in row["error"] for row in rows)


def test_what_is_absent_is_null_among_the_sources(runner: Runner) -> None:
    found = json.loads(write_sources(runner.profile).read_text())
    assert found["Penn-Fudan"] is None
    assert found[runner.profile.images.name] is None or runner.profile.images.name == "digits"
