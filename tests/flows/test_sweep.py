import os
from pathlib import Path

import pytest

from flows.compute.fanout import FanOut
from flows.networks.targets import Target, target
from flows.rows.sweep import Provenance, failures, report_failures, sweep
from ghn.errors import UnknownArchitectureError

TARGETS = [Target(f"deepnets1m/test/{i}", "test", i) for i in range(6)]
COUNTS = Path("counts")


def measure(target: Target) -> dict:
    """Fails for the third, and keeps count of its calls."""
    COUNTS.mkdir(exist_ok=True)
    (COUNTS / f"{target.index}-{os.getpid()}-{len(list(COUNTS.iterdir()))}").touch()
    if target.index == 2 and not Path("mended").exists():
        raise ValueError("network 2 is broken")
    return {"value": target.index * 10}


def run(settings: object = None, ghn: str = "ghn3") -> list[dict]:
    return sweep(
        "s",
        TARGETS,
        measure,
        Provenance(ghn, 1, "hash"),
        settings,
        FanOut(workers=1),
        ["flows/rows/sweep.py"],
    )


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_no_row_is_missing_and_a_failure_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows = run()
    assert [row["architecture"] for row in rows] == [t.id for t in TARGETS]
    assert [row.get("value") for row in rows] == [0, 10, None, 30, 40, 50]
    assert [row["error"] for row in failures(rows)] == ["ValueError: network 2 is broken"]
    report_failures("s", rows)
    assert "6 rows, 1 with an error" in capsys.readouterr().out


def test_rows_are_computed_once_failures_again_and_other_settings_anew() -> None:
    run()
    Path("mended").touch()
    before = len(list(COUNTS.iterdir()))
    assert [row["value"] for row in run()] == [0, 10, 20, 30, 40, 50]
    assert len(list(COUNTS.iterdir())) == before + 1
    run(settings={"batch_size": 2})
    assert len(list(COUNTS.iterdir())) == before + 1 + 6
    run(ghn="other")
    assert len(list(COUNTS.iterdir())) == before + 1 + 12


def test_an_interrupted_sweep_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mended").touch()
    finished = []

    def interrupted(target: Target) -> dict:
        if len(finished) == 4:
            raise KeyboardInterrupt
        finished.append(target)
        return measure(target)

    arguments = (Provenance("ghn3", 1, "hash"), None, FanOut(workers=1), ["flows/rows/sweep.py"])
    with pytest.raises(KeyboardInterrupt):
        sweep("s", TARGETS, interrupted, *arguments)
    rows = sweep("s", TARGETS, measure, *arguments)
    assert len(rows) == 6
    assert len(list(COUNTS.iterdir())) == 6


def test_ids_lead_to_targets_and_back() -> None:
    assert target("deepnets1m/wide/7") == Target("deepnets1m/wide/7", "wide", 7)
    assert target("resnet50") == Target("resnet50", "torchvision")
    for wrong in ("deepnets1m/test", "deepnets1m/test/-1", "deepnets1m/test/x"):
        with pytest.raises(UnknownArchitectureError, match="deepnets1m/<split>/<index>"):
            target(wrong)
