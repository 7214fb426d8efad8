"""What a run reports of its steps."""

from __future__ import annotations

import math

import pytest

from ghn.train.pace import Pace
from ghn.train.update import Outcome


def outcome(loss: float, accuracy: float, reason: str = "") -> Outcome:
    return Outcome(loss, loss, 1.0, accuracy, 0.5, 1e-3, reason, left_out=0)


def test_a_report_is_not_about_the_one_network_whose_loss_is_astronomic() -> None:
    pace = Pace()
    for step, loss in enumerate((2.0, 1e14, 2.2, 2.1, 1e9)):
        pace.record(step, outcome(loss, accuracy=0.1 * step), architectures=4, images=32)
    pace.record(5, outcome(math.nan, 0.0, "the loss is nan"), architectures=4, images=32)
    report = pace.report()
    assert report.step == 5
    assert report.loss == report.cross_entropy == 2.2
    assert report.accuracy == pytest.approx(0.2)
    assert not report.skipped


def test_a_report_of_skipped_steps_says_so() -> None:
    pace = Pace()
    pace.record(1, outcome(math.nan, math.nan, "the loss is nan"), architectures=4, images=32)
    report = pace.report()
    assert report.skipped
    assert math.isnan(report.loss)
