"""Lines of progress, as stages print them."""

from __future__ import annotations

import io
import logging
import re

import pytest
from rich.console import Console
from tqdm import tqdm

from flows.orchestration import progress
from ghn.train.progress import ProgressBar


def bar(title: str | None) -> str:
    """The last state of a bar of tqdm that is at 3 of 4."""
    output = io.StringIO()
    with tqdm(desc=title, total=4, file=output) as shown:
        shown.update(3)
        shown.refresh()
    return output.getvalue().split("\r")[-1]


@pytest.mark.parametrize(("title", "named"), [("evaluate", "evaluate"), (None, "")])
def test_bars_of_tqdm_are_read(title: str | None, named: str) -> None:
    found = progress.reading(bar(title))
    assert found is not None
    assert found[0] == 75
    assert re.fullmatch(rf"{named}(, )?00:00 left", found[1])


def test_the_lines_of_a_training_are_read() -> None:
    output = io.StringIO()
    console = Console(file=output)
    ProgressBar(console)._print("step 150/3000  loss 2.303  accuracy 10.0%")
    line = output.getvalue().strip()
    assert progress.reading(line) == (5.0, "step 150 of 3000")
    assert progress.reading(f"{line}  12 min left") == (5.0, "step 150 of 3000, 12 min left")
    assert progress.reading(f"{line}  2 h 05 min left") == (
        5.0,
        "step 150 of 3000, 2 h 05 min left",
    )


@pytest.mark.parametrize(
    "line",
    [
        "",
        "step 150: val_mean 0.2",
        "step 3/0",
        "accuracy 64.3%",
        "test: 64% | of all",
        "900 of 974",
    ],
)
def test_other_lines_are_none(line: str) -> None:
    assert progress.reading(line) is None


def test_a_server_that_is_away_costs_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: object) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(progress, "UPDATE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "create_progress_artifact", away)
    monkeypatch.setattr(progress, "get_run_logger", lambda: logging.getLogger("test"))
    shown = progress.Progress("generate@train")
    for percent in (10, 20):
        shown.line(f"shards: {percent}%|█  | 1/10")
    shown.end()
    assert [record.getMessage() for record in caplog.records] == [
        "no progress of generate@train is shown: nobody answers"
    ]
