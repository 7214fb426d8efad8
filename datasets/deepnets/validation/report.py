"""The outcome of a validation: checks that count, and statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets.deepnets.validation.statistics import PUBLISHED_STATISTICS, SplitStatistics
from ghn.errors import GHNError


class ValidationError(GHNError):
    """A split is broken; the message names check and graphs."""


@dataclass
class Check:
    """The outcome of one check on one split.

    Attributes:
        split: the split.
        check: its name.
        checked: number of things looked at.
        failed: number of failures.
        examples: the first ones, by name.
        note: figures, or what was not decided.
    """

    split: str
    check: str
    checked: int = 0
    failed: int = 0
    examples: list[str] = field(default_factory=list)
    note: str = ""

    def add(self, checked: int, failures: Sequence[str]) -> None:
        """Counts some more."""
        self.checked += checked
        self.failed += len(failures)
        self.examples += failures[: max(0, 20 - len(self.examples))]


@dataclass(frozen=True)
class ValidationReport:
    """All checks and the statistics of all splits."""

    checks: list[Check]
    statistics: dict[str, SplitStatistics]

    @property
    def failures(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.failed]

    def raise_if_failed(self) -> None:
        """Raises:
        ValidationError: names every failed check and its first graphs.
        """
        if lines := [
            f"  {c.split}: {c.check} failed for {c.failed} of {c.checked}: {', '.join(c.examples)}"
            f" {c.note}".rstrip()
            for c in self.failures
        ]:
            raise ValidationError("\n".join(["DeepNets-1M is not valid:", *lines]))


def as_json(report: ValidationReport) -> dict[str, Any]:
    """The report as plain values."""
    return {
        "valid": not report.failures,
        "checks": [vars(check) for check in report.checks],
        "statistics": {
            name: {
                "ours": _statistics_json(ours),
                "published": (
                    _statistics_json(PUBLISHED_STATISTICS[name])
                    if name in PUBLISHED_STATISTICS
                    else None
                ),
            }
            for name, ours in report.statistics.items()
        },
    }


def _statistics_json(statistics: SplitStatistics) -> dict[str, Any]:
    values = dict(vars(statistics))
    return {k: v._asdict() if hasattr(v, "_asdict") else v for k, v in values.items()}
