"""The report among the artifacts of a pipeline's run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from flows.tracking import pipeline_run
from flows.tracking.client import client
from flows.tracking.pipeline import is_of_the_evaluation, note_results

ENTRY = {
    "architectures": 5,
    "errors": 0,
    "mean": 0.25,
    "std": 0.1,
    "randinit_mean": 0.1,
    "randinit_std": 0.05,
}


def lock(directory: Path, read: str, wrote: str) -> None:
    """A dvc.lock whose report was made from the evaluation `read`."""
    evaluation = "results/evaluation.parquet"
    stages = {
        "evaluate": {"outs": [{"path": evaluation, "md5": wrote}]},
        "report": {"deps": [{"path": evaluation, "md5": read}]},
    }
    (directory / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))


def test_a_report_on_an_earlier_evaluation_is_none_of_this_run(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    assert not is_of_the_evaluation(tmp_path)
    lock(tmp_path, "a", "a")
    assert not is_of_the_evaluation(tmp_path)  # it is not there
    (tmp_path / "reports" / "index.html").write_text("<html>")
    assert is_of_the_evaluation(tmp_path)
    lock(tmp_path, "a", "b")
    assert not is_of_the_evaluation(tmp_path)


def test_the_run_of_a_pipeline_has_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("GHN_PARENT_RUN_ID", raising=False)
    for directory in ("reports", "results"):
        (tmp_path / directory).mkdir()
    (tmp_path / "results" / "evaluation.json").write_text(json.dumps({"test": ENTRY}))
    (tmp_path / "reports" / "index.html").write_text("<html>the report</html>")
    lock(tmp_path, "a", "a")
    with pipeline_run("pipeline", {}) as run:
        note_results(run)
    assert run is not None
    found = client().get_run(run)
    assert found.data.metrics["accuracy/test"] == 0.25
    assert "test: 25.0% of images" in found.data.tags["mlflow.note.content"]
    assert [file.path for file in client().list_artifacts(run, "report")] == ["report/index.html"]
