"""What is drawn under a seed leaves every generator as it was, those of GPUs too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import ghn
from ghn.initialize import save_initialized
from ghn.models.classes import for_classes
from ghn.randomness import seed_of, seeded

SMALL = ghn.GHNConfig(hidden=16, layers=1, heads=4, decoder_channels=8, num_classes=10)


def test_a_seed_hangs_on_all_of_its_parts_and_stays_what_it_was() -> None:
    assert seed_of(1, "resnet18") == 1884969867925953  # what trainings and crops of before drew by
    apart = [seed_of(*parts) for parts in ((1, 2, 3), (1, 3, 2), (12, 3), (1, 23), (0, 2, 3))]
    assert len(set(apart)) == len(apart)
    assert all(0 <= seed < 2**56 for seed in apart)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The states of two generators that PyTorch takes for those of GPUs."""
    states = ["first", "second"]

    def set_all(seed: int) -> None:
        states[:] = [f"seed {seed}"] * 2

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", set_all)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device])
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: states.__setitem__(device, state)
    )
    return states


def test_all_generators_are_seeded_and_put_back(gpus: list[str]) -> None:
    before = torch.get_rng_state()
    with seeded(3):
        assert gpus == ["seed 3"] * 2
        one = torch.rand(2)
    assert gpus == ["first", "second"]
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(3):
        assert torch.equal(torch.rand(2), one)


@pytest.mark.parametrize(
    "call",
    [
        lambda _: for_classes(ghn.GHN(SMALL), 3),
        lambda path: save_initialized("resnet18", None, path / "network.safetensors"),
    ],
)
def test_library_calls_put_them_back(
    call: Callable[[Path], object], gpus: list[str], tmp_path: Path
) -> None:
    call(tmp_path)
    assert gpus == ["first", "second"]
