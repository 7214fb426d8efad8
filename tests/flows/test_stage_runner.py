"""One run of a stage at a time, and nothing half written stays."""

from pathlib import Path

import pytest

from flows.stages.lock import StageInUseError, alone


def test_a_stage_runs_once_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with alone("train", []):
        with alone("predict", []):
            pass
        with pytest.raises(StageInUseError, match="train runs already"), alone("train", []):
            pass
    with alone("train", []):
        pass


def test_what_a_killed_run_left_goes_and_another_stage_s_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = (
        "data/.tmp-1-ab-test.h5",
        "data/.tmp-1-ab-val.h5",
        "images/sub/.tmp-7-a",
        "data/test.h5",
    )
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    with alone("generate@test", ["data/test.h5", "images", "absent/x.csv"]):
        pass
    assert [Path(name).exists() for name in names] == [False, True, False, True]
