"""Copies to a GPU that go on beside its computing."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import NamedTuple

import torch

from ghn.train.data import StepData, on_device


class Copied(NamedTuple):
    """Data that is on its way, and what tells that it has arrived."""

    data: StepData
    arrived: torch.cuda.Event | None


class Copies:
    """Has the data of steps copied, and images augmented, by a stream of their own: in the stream
    of the training step a copy would wait for the step before, and the next step for the copy.

    Args:
        device: where the data goes; other than a GPU's, nothing needs to be done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def begun(self, data: Generator[StepData, None, None]) -> Generator[Copied, None, None]:
        """Begins the copies; for the thread that prepares data."""
        with closing(data):
            while True:
                with torch.cuda.stream(self._stream):
                    try:
                        images_BCHW, labels_B, batch = next(data)
                    except StopIteration:
                        return
                    moved = StepData(images_BCHW, labels_B, on_device(batch, self._device))
                    arrived = None if self._stream is None else self._stream.record_event()
                yield Copied(moved, arrived)

    def given(self, copied: Copied) -> StepData:
        """The data, for the thread that trains: its stream waits for the copies, it does not."""
        if copied.arrived is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(copied.arrived)
            data = copied.data
            for tensor in (data.images_BCHW, data.labels_B, *data.batch.graphs.tensors):
                tensor.record_stream(current)  # its memory is not the other stream's to give away
        return copied.data
