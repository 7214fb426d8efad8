"""The log of a run: what is torn is left out, what is damaged has a name."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ghn.errors import DamagedFileError
from ghn.train.log import _line, read_log

STEPS = [
    {"step": 0, "loss": 2.5, "skipped": False, "left_out": []},
    {"step": 1, "loss": None, "skipped": True, "left_out": ["a", "b"]},
    {"step": 2, "loss": 0.1 + 0.2, "skipped": False, "left_out": []},
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(map(_line, STEPS)))
    return path


def test_a_log_is_what_was_written_and_a_torn_line_is_left_out(log: Path) -> None:
    assert read_log(log) == STEPS
    log.write_bytes(log.read_bytes()[:-20])
    assert read_log(log) == STEPS[:2]
    assert read_log(log.with_name("absent.jsonl")) == []


def test_numbers_that_are_not_finite_are_null(log: Path) -> None:
    log.write_text("".join(_line({"step": 3, "loss": loss}) for loss in (math.nan, math.inf)))
    strict = [json.loads(line, parse_constant=pytest.fail) for line in log.read_text().splitlines()]
    assert [line["loss"] for line in strict] == [None, None]
    assert read_log(log) == [{"step": 3, "loss": None}] * 2


def test_one_flipped_bit_anywhere_is_named(log: Path) -> None:
    content = log.read_bytes()
    for place in range(len(content) - 1):  # the last byte ends the line: without it, it is torn
        for bit in (0, 3, 6):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            log.write_bytes(damaged)
            with pytest.raises(DamagedFileError, match=r"steps\.jsonl, line \d: not as it was"):
                read_log(log)


def test_logs_from_before_there_were_checks_are_read(log: Path) -> None:
    log.write_text("".join(json.dumps(values) + "\n" for values in STEPS))
    assert read_log(log) == STEPS
