"""The entry points of `torch.hub`, loaded from this tree."""

from __future__ import annotations

from pathlib import Path

import torch

import ghn

ROOT = str(Path(__file__).resolve().parents[2])


def test_the_hypernetwork_of_the_package() -> None:
    hypernetwork = torch.hub.load(ROOT, "ghn3", source="local")
    assert hypernetwork.config == ghn.from_pretrained().config


def test_a_network_with_predicted_parameters() -> None:
    state = torch.get_rng_state()
    load = {"source": "local", "num_classes": 10}
    model = torch.hub.load(ROOT, "initialized", "shufflenet_v2_x0_5", **load)
    assert torch.equal(torch.get_rng_state(), state)
    again = torch.hub.load(ROOT, "initialized", "shufflenet_v2_x0_5", **load)
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
