"""What the validate stage leaves on disk, also where something stands in its way."""

from __future__ import annotations

import csv
import errno
import json
from pathlib import Path

import pytest

from datasets.deepnets.store.files import only_writer
from datasets.deepnets.validation.report import Check, ValidationReport
from flows.settings import paths
from flows.stages import validate
from ghn.errors import GHNError

REPORT = ValidationReport([Check("test", "connected", 5, 1, ["deepnets1m/test/3"])], {})


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "reports"


def test_both_reports_are_written_and_leftovers_of_killed_runs_go(here):
    here.mkdir()
    other = here / ".tmp-1-00000000-other.json"
    for name in (other.name, ".tmp-1-00000000-validation.json", ".tmp-1-00000000-validation.csv"):
        (here / name).write_text("half")
    validate._write(REPORT)
    assert {path.name for path in here.iterdir()} == {
        other.name, paths.VALIDATION.name, "validation.csv"
    }  # fmt: skip
    assert json.loads(paths.VALIDATION.read_text())["valid"] is False
    with paths.VALIDATION.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["examples"] == "deepnets1m/test/3"


def test_a_full_disk_is_named_and_keeps_what_was_there(here, monkeypatch):
    validate._write(REPORT)
    before = paths.VALIDATION.read_bytes()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(GHNError, match=r"reports/validation\.json: could not be written.*No space"):
        validate._write(REPORT)
    assert paths.VALIDATION.read_bytes() == before


def test_one_at_a_time_and_a_lock_that_cannot_be_made_is_named(here):
    lock = here / ".validation.lock"
    with (
        only_writer(lock, "busy"),
        pytest.raises(GHNError, match=r"validation\.lock: another process validates"),
    ):
        validate._write(REPORT)
    assert not lock.exists()
    (here / "file").write_text("")
    with (
        pytest.raises(GHNError, match="could not be written"),
        only_writer(here / "file" / "x.lock", "busy"),
    ):
        pass
