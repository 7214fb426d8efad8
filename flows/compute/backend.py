"""What `flows.compute.fanout` asks of a place where items are worked on: this machine's processes
(`flows.compute.processes`) or a Ray cluster (`flows.compute.cluster`).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any

from ghn.errors import GHNError

Submit = Callable[[Any], "Future[Any]"]
"""Starts work on an item. The future fails with `LostWorkerError` if its worker dies."""

Backend = AbstractContextManager[tuple[Submit, int]]
"""Yields `Submit` and the number of items to work on at once; its end ends the workers."""


class LostWorkerError(GHNError):
    """The worker died while it was at an item, most often for want of memory.

    A function that finds itself short of memory may raise it too: the item is then tried again, in
    the end with nothing beside it.
    """
