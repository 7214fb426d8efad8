"""The numbers and curves that DVC shows of the stages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.rows.metrics import write_metrics
from flows.settings import paths
from flows.trials.outcome import write_curves, write_outcome

ROOT = Path(__file__).resolve().parents[2]


def row(name: str, init: str, test: float | None, curve: list[float], **changes: object) -> dict:
    made = {"architecture": name, "ghn": init, "error": None, "selected": True, "step": [2, 4]}
    return made | {"test_accuracy": test, "val_accuracy": curve, **changes}


ROWS = [
    row("a", "ghn3", 0.6, [0.4, 0.6]),
    row("a", "ghn3", 0.1, [0.0, 0.1], selected=False),
    row("b", "ghn3", 0.4, [0.2, 0.4]),
    row("a", "randinit", 0.5, [0.1, 0.5]),
    row("b", "randinit", None, [], error="no luck", step=[]),
]


def test_the_outcome_is_of_the_chosen_points_and_names_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_outcome("finetune", ROWS, "ghn3")
    found = json.loads((paths.METRICS / "finetune.json").read_text())
    assert found == {"networks": 2, "failed": 1, "predicted": 0.5, "random": 0.5}


def test_both_curves_are_in_one_table(tmp_path: Path) -> None:
    write_curves(tmp_path / "curves.csv", ROWS, "ghn3")
    assert (tmp_path / "curves.csv").read_text().splitlines() == [
        "step,predicted,random",
        "2,0.30000,0.10000",
        "4,0.50000,0.50000",
    ]


def test_without_a_run_the_tables_are_empty_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    absent = [{"architecture": "a", "ghn": "ghn3", "error": "no images"}]
    write_outcome("transfer", absent, "ghn3")
    write_curves(tmp_path / "curves.csv", absent, "ghn3")
    assert json.loads((paths.METRICS / "transfer.json").read_text()) == {"networks": 1, "failed": 1}
    assert (tmp_path / "curves.csv").read_text() == "step,predicted,random\n"


def test_metrics_of_all_stages_fit_in_120_columns(tmp_path: Path) -> None:
    """`dvc metrics show` has a column per name, whatever the stage."""
    (tmp_path / "flows").mkdir()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "-q"], cwd=tmp_path, check=True)
    files = ["models/ghn3/training.json"]
    training = tmp_path / files[0]
    training.parent.mkdir(parents=True)
    training.write_text(json.dumps({"step": 3000, "val_mean": 0.53515625, "val_best": 0.734375}))
    values = {"networks": 974, "failed": 1, "predicted": 0.53494, "random": 0.1, "share": 0.99}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for stage in ("predict", "evaluate", "finetune", "transfer"):
            write_metrics(stage, values)  # type: ignore[arg-type]
            files.append((paths.METRICS / f"{stage}.json").as_posix())
    shown = subprocess.run(
        [*dvc, "metrics", "show", *files], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert "results/metrics/transfer.json" in shown
    assert max(len(line) for line in shown.splitlines()) <= 120
