"""What goes wrong with a stage."""

from __future__ import annotations

from ghn.errors import GHNError


class StageFailedError(GHNError):
    """A stage ended with an exit code other than 0; its output is in the log of the task run.

    Attributes:
        passing: whether the cause may be gone next time: a file that DVC has in use, an end by a
            signal (out of memory), a worker that went down. Wrong parameters and damaged files are
            not retried.
    """

    def __init__(self, message: str, passing: bool):
        super().__init__(message)
        self.passing = passing
