"""How fast a run goes, and what is typical of the steps between two reports."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean, median

from ghn.train.callbacks import StepRecord
from ghn.train.update import Outcome


class Pace:
    """Makes the records of steps; speeds are means since the last report, without evaluations and
    checkpoints.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._records: list[StepRecord] = []
        self._architectures = self._images = 0
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

    def record(self, step: int, outcome: Outcome, architectures: int, images: int) -> StepRecord:
        """The record of the step that has just ended.

        Args:
            step: number of steps done.
            outcome: what became of it.
            architectures: of the step, over all ranks.
            images: of the step; every architecture sees all of them.
        """
        elapsed = time.perf_counter() - self._begin
        self._architectures += architectures
        self._images += architectures * images
        record = StepRecord(
            step,
            outcome.loss,
            outcome.cross_entropy,
            outcome.penalty,
            outcome.accuracy,
            outcome.gradient_norm,
            outcome.lr,
            bool(outcome.reason),
            images_per_second=self._images / elapsed,
            architectures_per_second=self._architectures / elapsed,
            waited=self._waited / elapsed,
            left_out=outcome.left_out,
        )
        self._records.append(record)
        return record

    def report(self) -> StepRecord:
        """The last record with what holds for the steps since the last report (skipped ones left
        out) in its place: mean accuracies, and medians of the rest, since the loss of a single
        network without norms can be astronomic.
        """
        last = self._records[-1]
        good = [record for record in self._records if not record.skipped] or [last]
        names = ("loss", "cross_entropy", "penalty", "gradient_norm")
        typical = {name: median(getattr(record, name) for record in good) for name in names}
        accuracy = fmean(record.accuracy for record in good)
        left_out = sum(record.left_out for record in self._records)
        skipped = len(good) == 1 and good[0].skipped
        self._reset()
        return replace(last, **typical, accuracy=accuracy, skipped=skipped, left_out=left_out)
