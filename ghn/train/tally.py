"""What went wrong in a run so far, counted; a run in which too much does is given up."""

from __future__ import annotations

from ghn.errors import GHNError
from ghn.train.update import Outcome


class DivergedError(GHNError):
    """Training cannot go on: too many steps in a row had no finite loss or did not fit into
    memory.
    """


class Tally:
    """Counts steps that were skipped and architectures that were left out of the others.

    Attributes:
        counters: the numbers, kept in checkpoints.
    """

    def __init__(self, max_skipped: int) -> None:
        self.max_skipped = max_skipped
        self.counters = dict.fromkeys(("skipped", "skipped_in_a_row", "left_out"), 0.0)

    @property
    def skipped(self) -> int:
        """Steps skipped."""
        return int(self.counters["skipped"])

    @property
    def left_out(self) -> int:
        """Architectures left out of steps that were taken."""
        return int(self.counters["left_out"])

    def count(self, outcome: Outcome) -> str:
        """Takes in what became of a step; returns a warning, empty if it was taken."""
        counters = self.counters
        if not outcome.reason:
            counters["skipped_in_a_row"] = 0.0
            counters["left_out"] += outcome.left_out
            return ""
        counters["skipped"] += 1
        counters["skipped_in_a_row"] += 1
        return f"step skipped: {outcome.reason} ({self.skipped} so far)"

    def check(self, outcome: Outcome, step: int, directory: object) -> None:
        """Gives up a run whose steps are all skipped.

        Raises:
            DivergedError: more than `max_skipped` in a row were.
        """
        row = int(self.counters["skipped_in_a_row"])
        if row > self.max_skipped:
            raise DivergedError(
                f"{row} steps in a row were skipped, the last, {step}, because {outcome.reason}."
                f" Start anew (delete {directory}) with a lower train.lr or, if memory is short,"
                " with a smaller train.batch_size or train.meta_batch_size"
            )
