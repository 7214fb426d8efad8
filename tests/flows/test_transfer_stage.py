"""What the stage does where the target's images are not there."""

from pathlib import Path

import pytest

from flows.params import Params, load_params
from flows.rows.schema import read_rows, write_rows
from flows.settings import paths
from flows.stages import evaluate, transfer
from flows.stages.runner import start
from flows.tracking.run import stage_run
from ghn.errors import MissingDataError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    loaded = load_params(ROOT / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GHN_DATA_ROOT", str(tmp_path / "nothing"))
    row = {"architecture": "resnet18", "split": "torchvision", "ghn": "ghn3", "seed": 1}
    row |= {"data_hash": "", "error": None, "accuracy": 0.5, "val_accuracy": 0.5, "gmacs": 0.01}
    write_rows(paths.EVALUATION, [row], evaluate.COLUMNS)
    return loaded


def run(params: Params, **changes: object) -> None:
    section = params.transfer.model_copy(update=changes)
    with stage_run("transfer", {}, connect_after_seconds=1e9) as stage:
        start(transfer.run, params.model_copy(update={"transfer": section}), stage)


def test_absent_images_fail_the_stage_and_nothing_is_written(params: Params) -> None:
    with pytest.raises(MissingDataError, match=r"images of cifar10(.|\n)*transfer\.optional"):
        run(params, optional=False)
    assert not paths.TRANSFER.exists()


def test_images_that_are_there_and_cannot_be_kept_fail_the_stage(
    params: Params, tmp_path: Path
) -> None:
    """As on a full disk: rows that say so would stay, since nothing that DVC looks at changes."""
    (tmp_path / "results/.cache").mkdir(parents=True, exist_ok=True)
    (tmp_path / "results/.cache/images").write_text("no directory")
    with pytest.raises(OSError, match="images"):
        run(params, optional=True, target="digits", labels=None)
    assert not paths.TRANSFER.exists()


def test_where_they_may_be_absent_each_row_says_so(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    run(params, optional=True)
    assert "transfer: nothing was measured" in capsys.readouterr().err
    rows = read_rows(paths.TRANSFER)
    assert len(rows) == len(params.transfer.inits) * params.transfer.seeds
    assert all("cifar10" in row["error"] for row in rows)
