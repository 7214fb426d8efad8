"""The real commands in a clone, at the profile tiny: generate to report, twice, then with one
parameter changed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from clone import SPLITS, Clone

STAGES = [
    *(f"generate@{split}" for split in SPLITS),
    "validate", "sources", "images", "train", "predict", "evaluate", "finetune", "transfer",
    "register", "report",
]  # fmt: skip


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("e2e") / "clone")
    ran, _ = clone.repro()
    assert sorted(ran) == sorted(STAGES)
    return clone


def test_every_architecture_has_a_row_that_says_where_it_comes_from(clone: Clone) -> None:
    for name in ("predictions", "evaluation"):
        rows = pq.read_table(clone.path / "results" / f"{name}.parquet").to_pylist()
        architectures = [row["architecture"] for row in rows]
        assert architectures == [
            "deepnets1m/test/0",
            "deepnets1m/test/1",
            "resnet18",
            "squeezenet1_1",
        ]
        assert [row["error"] for row in rows] == [None] * 4
        assert {len(row["data_hash"]) for row in rows} == {32}
    for row in rows:
        assert 0 <= row["accuracy"] <= 1
        assert 0 <= row["randinit_accuracy"] <= 1
        assert row["images"] >= 16


def test_finetuning_has_both_initialisations_and_absent_data_is_said(clone: Clone) -> None:
    rows = pq.read_table(clone.path / "results" / "finetune.parquet").to_pylist()
    assert {row["ghn"] for row in rows} == {"ghn3", "randinit"}
    assert all(row["step"][-1] == 2 for row in rows)
    transfer = pq.read_table(clone.path / "results" / "transfer.parquet").to_pylist()
    assert transfer
    assert all("cifar10" in row["error"] for row in transfer)


def test_the_report_is_one_self_contained_page(clone: Clone) -> None:
    page = (clone.path / "reports" / "index.html").read_text()
    assert page.count("<svg") >= 4
    assert "resnet18" in page
    assert "69.76" in page  # published
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", page)
    assert not re.search(r"url\((?!#)", page)


def test_runs_and_registered_version_lead_back_to_data_and_code(clone: Clone) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{clone.path}/mlflow.db")
    experiment = client.get_experiment_by_name("ghn3")
    runs = {run.data.tags["stage"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == set(STAGES)
    lock = yaml.safe_load((clone.path / "dvc.lock").read_text())["stages"]
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        for out in lock[name]["outs"]:
            assert run.data.tags[f"dvc.out.{out['path']}"] == out["md5"], (name, out["path"])
    assert len(client.get_metric_history(runs["train"].info.run_id, "curve/val_mean")) == 2
    version = client.get_model_version_by_alias("ghn3", "challenger")
    assert version.run_id == runs["register"].info.run_id
    weights = next(out for out in lock["train"]["outs"] if out["path"].endswith("ghn.safetensors"))
    assert weights["md5"] in version.tags.values()


def test_a_second_time_nothing_runs(clone: Clone) -> None:
    ran, seconds = clone.repro()
    assert ran == ["sources"]  # it looks outside of the tree, each time
    print(f"dvc repro without changes: {seconds:.1f} s")
    metrics = json.loads(clone.run("-m", "dvc", "metrics", "show", "--json").stdout)
    assert "results/metrics/evaluate.json" in str(metrics)


@pytest.mark.slow
def test_another_clone_takes_the_results_from_a_directory_of_files(
    clone: Clone, tmp_path: Path
) -> None:
    def git(*arguments: str) -> None:
        author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", *author, *arguments], cwd=clone.path, check=True)

    clone.run("-m", "dvc", "remote", "add", "--default", "sample", str(tmp_path / "sample"))
    clone.run("-m", "dvc", "push")
    git("add", "-A")
    git("commit", "-q", "-m", "A run")
    gto = "from gto.cli import app; app()"  # a console script, and no module that runs
    clone.run("-c", gto, "register", "ghn3", "--version", "v1.0.0")
    reader = tmp_path / "reader"
    subprocess.run(["git", "clone", "-q", str(clone.path), str(reader)], check=True)

    def dvc(*arguments: str) -> str:
        command = [sys.executable, "-m", "dvc", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(reader)}
        done = subprocess.run(command, cwd=reader, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    dvc("pull")
    for name in ("models/ghn3/ghn.safetensors", "results/evaluation.parquet", "reports/index.html"):
        assert (reader / name).read_bytes() == (clone.path / name).read_bytes()
    assert set(json.loads(dvc("status", "--json", "dvc.yaml"))) <= {"sources"}
    dvc("artifacts", "get", ".", "ghn3", "--out", "taken.safetensors")
    taken, weights = reader / "taken.safetensors", reader / "models/ghn3/ghn.safetensors"
    assert taken.read_bytes() == weights.read_bytes()


def test_a_changed_parameter_reruns_what_depends_on_it_only(clone: Clone) -> None:
    clone.change(report={"title": "Another title"})
    ran, _ = clone.repro()
    assert ran == ["sources", "report"]
    assert "<h1>Another title</h1>" in (clone.path / "reports" / "index.html").read_text()


def test_equal_inputs_give_equal_bytes_without_any_cache(clone: Clone) -> None:
    names = ("predictions", "evaluation", "finetune")
    files = {name: clone.path / "results" / f"{name}.parquet" for name in names}
    before = {name: path.read_bytes() for name, path in files.items()}
    shutil.rmtree(clone.path / "results" / ".cache")
    for stage in ("predict", "evaluate", "finetune"):
        clone.run("-m", "ghn.cli", stage)
    assert [name for name, path in files.items() if path.read_bytes() != before[name]] == []


def test_a_damaged_result_is_named_and_made_anew(clone: Clone) -> None:
    path = clone.path / "results" / "predictions.parquet"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:100])
    failed = clone.run("-m", "ghn.cli", "report", check=False)
    assert failed.returncode == 1
    assert "results/predictions.parquet: not as stage predict wrote it" in failed.stderr
    assert "Traceback" not in failed.stderr
    clone.run("-m", "dvc", "repro")
    assert path.read_bytes() == content


def test_malformed_parameters_stop_the_pipeline_before_anything_runs(clone: Clone) -> None:
    before = (clone.path / "params.yaml").read_text()
    clone.change(evaluate={"batch_size": 0})
    result = clone.run("-m", "dvc", "repro", "evaluate", check=False)
    (clone.path / "params.yaml").write_text(before)
    assert result.returncode != 0
    assert "evaluate.batch_size = 0" in result.stderr
    assert clone.repro()[0] == ["sources"]
