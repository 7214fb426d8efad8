"""Which card a rank computes on, and how ranks talk: found out without cards."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from ghn.train import ranks


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Backends of the groups that are made, which talk to no one."""
    found: list[str] = []
    init, new_group = dist.init_process_group, dist.new_group

    def init_fake(backend: str, **_: object) -> None:
        found.append(backend)
        init("fake", store=FakeStore(), rank=1, world_size=2)

    def new_fake(backend: str, **_: object) -> object:
        found.append(backend)
        return new_group(backend="fake")

    monkeypatch.setattr(dist, "init_process_group", init_fake)
    monkeypatch.setattr(dist, "new_group", new_fake)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: found.append(str(device)))
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    return found


@pytest.mark.parametrize(
    ("cards", "device", "expected"),
    [
        (2, "cuda:1", ["cuda:1", "nccl", "gloo", "gloo"]),  # patient, and of the host
        (1, "cuda:0", ["cuda:0", "gloo", "gloo"]),  # two share it
        (0, "cpu", ["gloo", "gloo"]),
    ],
)
def test_ranks_that_share_a_card_average_through_gloo(
    cards: int,
    device: str,
    expected: list[str],
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    with ranks("auto") as group:
        assert (group.rank, group.world, str(group.device)) == (1, 2, device)
        assert (group.host is not None) == (cards == 2)
    assert asked == expected
    assert not dist.is_initialized()
