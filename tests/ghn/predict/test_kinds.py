"""A report says where predictions are known not to help: as the hypernetwork's metadata has it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ghn.architectures import build
from ghn.models import GHN, GHNConfig
from ghn.predict.fit import kind
from ghn.tracing import trace


@pytest.mark.parametrize(
    ("name", "expected"),
    [("alexnet", "no norm"), ("resnet18", "batch norm"), ("convnext_tiny", "layer norm"),
     ("swin_t", "attention")],
)  # fmt: skip
def test_kinds(name: str, expected: str) -> None:
    assert kind(trace(build(name, 10, 32, device="meta"))) == expected


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        ({"no norm": 0.11, "batch norm": 0.3}, True),
        ({"no norm": 0.3, "batch norm": 0.1}, False),
        ({"batch norm": 0.1}, False),
        (None, False),
        ("0.1", False),
        ({"no norm": "low"}, False),
    ],
)
def test_the_report_tells_what_was_measured(accuracy: object, said: bool) -> None:
    torch.manual_seed(0)
    ghn = GHN(GHNConfig(hidden=16, layers=1, heads=2, decoder_channels=8, num_classes=10))
    ghn.metadata = {"accuracy": accuracy} if accuracy is not None else {}
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 900, 10))
    ghn(model, example_inputs=torch.empty(2, 3, 32, 32), strict=False)
    note = "of its kind (no norm) were measured at 11.0% with this hypernetwork, chance is 10.0%"
    assert (note in str(ghn.reports[0])) == said
    assert any("measured" in line for line in ghn.reports[0].notes) == said
