import os
import time
from pathlib import Path

import pytest

from flows.networks.targets import Target, target
from flows.rows.cache import RowCache
from flows.rows.digest import digest
from flows.rows.engine import TooManyErrorsError, Work
from flows.rows.schema import failures, identity
from flows.settings.fanout import FanOut
from ghn.errors import UnknownArchitectureError

TARGETS = [Target(f"deepnets1m/test/{i}", "test", i) for i in range(6)]
COUNTS = Path("counts")
HERE = FanOut(workers=1, max_error_share=0.5)


def measure(target: Target) -> dict:
    """Fails for the third, and keeps count of its calls."""
    COUNTS.mkdir(exist_ok=True)
    (COUNTS / f"{target.index}-{os.getpid()}-{len(list(COUNTS.iterdir()))}").touch()
    if target.index == 2 and not Path("mended").exists():
        raise ValueError("network 2 is broken")
    return {"value": target.index * 10}


def work(settings: object = None, measured: object = measure) -> Work:
    return Work(
        title="s",
        items=TARGETS,
        measure=measured,  # type: ignore[arg-type]
        key=lambda target: digest(target.id, settings),
        head=lambda target: identity(target.id, target.split, "ghn3", 1, "hash"),
    )


def run(settings: object = None, measured: object = measure, fanout: FanOut = HERE) -> list[dict]:
    with RowCache("cache.jsonl") as cache:
        return work(settings, measured).rows(cache, fanout)


def calls() -> int:
    return len(list(COUNTS.iterdir()))


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_no_row_is_missing_and_a_failure_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows = run()
    assert [row["architecture"] for row in rows] == [t.id for t in TARGETS]
    assert [row.get("value") for row in rows] == [0, 10, None, 30, 40, 50]
    assert [row["error"] for row in failures(rows)] == ["ValueError: network 2 is broken"]
    assert "1 of 6 failed" in capsys.readouterr().out


def test_rows_are_computed_once_failures_again_and_other_settings_anew() -> None:
    run()
    Path("mended").touch()
    before = calls()
    assert [row["value"] for row in run()] == [0, 10, 20, 30, 40, 50]
    assert calls() == before + 1
    run(settings={"batch_size": 2})
    assert calls() == before + 1 + 6


def test_too_many_failures_are_an_error_and_the_others_are_kept() -> None:
    few = HERE.model_copy(update={"max_error_share": 0.1})
    with pytest.raises(TooManyErrorsError, match=r"1 of 6 failed(.|\n)*network 2 is broken"):
        run(fanout=few)
    Path("mended").touch()
    before = calls()
    assert len(run(fanout=few)) == 6
    assert calls() == before + 1


def needs_all_memory(target: Target) -> dict:
    """Fails as oneDNN does where another is at work, which none can be while it is."""
    Path("busy").mkdir(exist_ok=True)
    mine = Path("busy") / str(target.index)
    mine.touch()
    time.sleep(0.5)
    others = len(list(Path("busy").iterdir())) - 1
    mine.unlink()
    if others:
        raise RuntimeError("could not create a primitive")
    return {"value": target.index}


def test_an_item_that_is_short_of_memory_is_tried_again_with_nothing_beside_it() -> None:
    rows = run(measured=needs_all_memory, fanout=FanOut(workers=2, max_error_share=0.0))
    assert [row["value"] for row in rows] == list(range(6))


def test_an_item_may_have_several_rows_and_rows_that_do_not_hold_are_made_again() -> None:
    def pair(target: Target) -> list[dict]:
        return [{"value": target.index}, {"value": -target.index}]

    assert [row["value"] for row in run(measured=pair)][:4] == [0, 0, 1, -1]
    with RowCache("cache.jsonl") as cache:
        rows = work().rows(cache, HERE, is_whole=lambda rows: rows[0]["value"] > 3)
    assert [row.get("value") for row in rows] == [0, 10, None, 30, 4, -4, 5, -5]


def test_an_interrupted_stage_goes_on_where_it_was() -> None:
    Path("mended").touch()
    finished = []

    def interrupted(target: Target) -> dict:
        if len(finished) == 4:
            raise KeyboardInterrupt
        finished.append(target)
        return measure(target)

    with pytest.raises(KeyboardInterrupt):
        run(measured=interrupted)
    assert len(run()) == 6
    assert calls() == 6


def test_ids_lead_to_targets_and_back() -> None:
    assert target("deepnets1m/wide/7") == Target("deepnets1m/wide/7", "wide", 7)
    assert target("resnet50") == Target("resnet50", "torchvision")
    for wrong in ("deepnets1m/test", "deepnets1m/test/-1", "deepnets1m/test/x"):
        with pytest.raises(UnknownArchitectureError, match="deepnets1m/<split>/<index>"):
            target(wrong)
