"""How fast a run goes, and means of what it logs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from ghn.train.callbacks import StepRecord


class Pace:
    """Makes the records of steps; speeds are means since the last report, without evaluations and
    checkpoints.

    Args:
        architectures: per step, over all ranks.
        images: per step; every architecture sees all of them.
    """

    def __init__(self, architectures: int, images: int) -> None:
        self.architectures, self.images = architectures, images
        self._reset()

    def _reset(self) -> None:
        self._records: list[StepRecord] = []
        self._begin, self._waited = time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around waiting for data."""
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is not training."""
        begin = time.perf_counter()
        yield
        self._begin += time.perf_counter() - begin

    def record(
        self, step: int, values: Sequence[float], gradient_norm: float, lr: float, skipped: bool
    ) -> StepRecord:
        """The record of the step that has just ended; `values` are loss, cross-entropy, penalty and
        accuracy.
        """
        elapsed = time.perf_counter() - self._begin
        rate = (len(self._records) + 1) * self.architectures / elapsed
        loss, cross_entropy, penalty, accuracy = values
        record = StepRecord(
            step,
            loss,
            cross_entropy,
            penalty,
            accuracy,
            gradient_norm,
            lr,
            skipped,
            images_per_second=rate * self.images,
            architectures_per_second=rate,
            waited=self._waited / elapsed,
        )
        self._records.append(record)
        return record

    def report(self) -> StepRecord:
        """The last record with means over the steps since the last report (skipped ones left out)
        in its place.
        """
        last = self._records[-1]
        good = [record for record in self._records if not record.skipped] or [last]
        names = ("loss", "cross_entropy", "penalty", "accuracy", "gradient_norm")
        means = {name: sum(getattr(record, name) for record in good) / len(good) for name in names}
        self._reset()
        return StepRecord(
            **{**asdict(last), **means, "skipped": len(good) == 1 and good[0].skipped}
        )
