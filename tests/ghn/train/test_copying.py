"""Copies to a card have a stream of their own, and a step waits for its data there.

Without a card: CUDA's streams and events are replaced by ones that write down what they are asked.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest
import torch
from train_setting import make_batch

from ghn.train.copying import Copies
from ghn.train.data import StepData


class _Stream:
    def __init__(self, name: str, said: list[str]) -> None:
        self.name, self.said, self.events = name, said, 0

    def record_event(self) -> str:
        self.events += 1
        self.said.append(f"{self.name} records {self.events}")
        return f"event {self.events}"

    def wait_event(self, event: str) -> None:
        self.said.append(f"{self.name} waits for {event}")


def _data(said: list[str]) -> Generator[StepData, None, None]:
    for number in (1, 2):
        said.append(f"copy {number}")
        yield StepData(torch.zeros(2, 3, 4, 4), torch.zeros(2), make_batch([0]))


def test_on_a_cpu_data_passes_through() -> None:
    copies, said = Copies(torch.device("cpu")), list[str]()
    found = [copies.given(copied) for copied in copies.begun(_data(said))]
    assert len(found) == 2
    assert said == ["copy 1", "copy 2"]


def test_copies_are_queued_apart_and_the_step_s_stream_waits_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    side, main = _Stream("side", said), _Stream("main", said)

    @contextmanager
    def inside(stream: _Stream) -> Iterator[None]:
        said.append(f"in {stream.name}")
        yield
        said.append(f"out of {stream.name}")

    recorded: list[object] = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: side)
    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: main)
    monkeypatch.setattr("ghn.train.copying.on_device", lambda batch, _device: batch)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda _self, stream: recorded.append(stream)
    )
    copies = Copies(torch.device("cuda", 0))
    copied = list(copies.begun(_data(said)))
    begun = [f"in side,copy {k},side records {k},out of side" for k in (1, 2)]
    assert ",".join(said).startswith(",".join(begun))
    del said[:]
    for one in copied:
        copies.given(one)
    assert said == ["main waits for event 1", "main waits for event 2"]
    assert recorded == [main] * 2 * 7  # images, labels, five tensors of graphs
