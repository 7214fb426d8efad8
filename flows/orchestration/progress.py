"""How far a stage is, on the page of its flow run: read from the lines that it prints anyway."""

from __future__ import annotations

import re
import time
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from ghn.addresses import first_line

UPDATE_SECONDS = 10.0
"""Between two updates of an artifact."""

_BAR = re.compile(r"^(?P<title>.*?):? +(?P<percent>\d{1,3})%\|(.*<(?P<left>\d[\d:]*))?")  # tqdm's
# of ghn.train.progress
_STEP = re.compile(
    r"^step (?P<done>\d+)/(?P<total>[1-9]\d*)\b(.*?(?P<left>(\d+ h )?\d+ min) left)?"
)


def reading(line: str) -> tuple[float, str] | None:
    """The percentage that a line tells of, and what it is of, with the time left where the line has
    it; None if it is no line of progress.
    """
    if found := _BAR.match(line):
        percent, title = float(found["percent"]), found["title"]
    elif found := _STEP.match(line):
        percent = 100 * int(found["done"]) / int(found["total"])
        title = f"step {found['done']} of {found['total']}"
    else:
        return None
    left = f"{found['left']} left" if found["left"] else ""
    return min(percent, 100.0), ", ".join(filter(None, (title, left)))


class Progress:
    """A bar on the page of the present flow run, from the first line of progress on.

    A stage of several bars (shards, then writing) shows one after the other. The server's troubles
    are not the stage's: without it there is no bar.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._artifact: UUID | None = None
        self._time = float("-inf")
        self._failed = False

    def line(self, text: str) -> None:
        """Moves the bar, if the line is one of progress and the last was not just now."""
        now = time.monotonic()
        if now - self._time >= UPDATE_SECONDS and (found := reading(text)) is not None:
            self._time = now
            self._show(*found)

    def end(self) -> None:
        """Fills the bar of a stage that is done."""
        if self._artifact is not None:
            self._show(100.0, "done")

    def _show(self, percent: float, what: str) -> None:
        if self._failed:
            return
        description = f"{self.stage}: {what}"
        try:
            if self._artifact is None:
                key = "progress-" + re.sub(r"[^a-z0-9]+", "-", self.stage.lower()).strip("-")
                self._artifact = create_progress_artifact(  # type: ignore[assignment]  # no coroutine
                    percent, key, description
                )
            else:
                update_progress_artifact(self._artifact, percent, description)
        except Exception as error:  # of the network, the server, its client
            self._failed = True
            get_run_logger().warning(
                "no progress of %s is shown: %s", self.stage, first_line(error)
            )
