"""What the page says of the networks that a hypernetwork was trained on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flows.report.evaluation import Setting
from flows.report.trained import trained_on
from flows.settings.train import TrainStageConfig

SETTING = Setting("digits", 16, 10, (64, 64), 700_000, 5000, 100)
EVALUATED = [
    {"architecture": name, "split": "torchvision"} for name in ("resnet18", "resnet34", "vgg11")
]


def told(*population: str) -> tuple[str, str, str]:
    """What was trained on, what was measured, and the caption."""
    section = {"steps": 100, "warmup_steps": 1, "population": [{"networks": n} for n in population]}
    train = TrainStageConfig.model_validate(
        section if population else section | {"population": None}
    )
    (table,) = trained_on(SETTING, train, EVALUATED, [], []).blocks
    return table.rows[0][1], table.rows[1][1], table.caption


def test_deepnets_alone() -> None:
    trained, measured, caption = told()
    assert trained == "5,000 architectures of split train"
    assert measured == "networks that it never saw"
    assert caption.startswith("Measured networks are not among those of training")


@pytest.mark.parametrize("entry", ["little_*", "own.py:Net"])
def test_others_that_are_not_measured(entry: str) -> None:
    trained, measured, caption = told("deepnets1m", entry)
    assert trained == f"5,000 architectures of split train and {entry}"
    assert measured == "networks that it never saw"
    assert caption.startswith("Measured networks are not among those of training")


def test_what_is_excluded_was_not_trained_on() -> None:
    entry = {"networks": "resnet*", "exclude": ["resnet18", "resnet34"]}
    section = {"steps": 100, "warmup_steps": 1, "population": [entry]}
    train = TrainStageConfig.model_validate(section)
    (table,) = trained_on(SETTING, train, EVALUATED, [], []).blocks
    assert table.rows[1][1] == "networks that it never saw"


def test_measured_networks_that_were_trained_on_are_counted() -> None:
    trained, measured, caption = told("deepnets1m", "resnet*", "little_vgg")
    assert trained == "5,000 architectures of split train and resnet* and little_vgg"
    assert measured == "networks that it never saw, and 2 that it was trained on"
    assert caption == "Test images are used for the measurement alone."


def test_what_was_trained_on_is_counted_by_phases() -> None:
    train = TrainStageConfig.model_validate({"population": None})
    stretches = [(40, 4, 64), (40, 2, 32), (None, 4, 32)]
    for steps, expected in (
        (100, "2 or 4 networks and 32 or 64 images: 0.015 million network-images"),
        (60, "2 or 4 networks and 32 or 64 images: 0.012 million network-images"),
        (30, "4 networks and 64 images: 0.0077 million network-images"),
    ):
        setting = replace(SETTING, steps=steps, stretches=stretches)
        (table,) = trained_on(setting, train, EVALUATED, [], []).blocks
        assert table.rows[0][3] == f"{steps} steps of {expected}"
