"""The comparison of starts is fair, repeatable, and says how sure it is."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ghn
from datasets.images import load
from ghn.compare import STARTS, Comparison, Start, compare
from ghn.errors import ConfigError
from ghn.finetune import FinetuneConfig


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x)).relu().mean((2, 3)))


def few() -> Comparison:
    train, val, test = (
        load("digits", split=split, image_size=8) for split in ("train", "val", "test")
    )
    return compare(
        Tiny,
        train.subset(range(200)),
        val,
        test,
        ghn.from_pretrained(),
        FinetuneConfig(steps=4, batch_size=32),
        lrs=(0.1, 0.01),
        seeds=2,
        name="tiny",
    )


def test_all_starts_meet_the_same_and_again() -> None:
    state = torch.get_rng_state()
    first, second = few(), few()
    assert first.to_dict() == second.to_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert [start.kind for start in first.starts] == list(STARTS)
    for start in first.starts:
        assert len(start.trained) == len(start.untrained) == 2
        assert start.step == [[0, 1, 2, 4]] * 2
    assert len({tuple(start.untrained) for start in first.starts}) == 3
    assert "predicted 170 of 170 numbers" in first.report


@pytest.mark.parametrize(
    ("lrs", "seeds", "said"),
    [
        ((0.1, -1.0), 1, "learning rate -1 is not above 0"),
        ((0.0,), 1, "learning rate 0 is not above 0"),
        ((float("nan"),), 1, "learning rate nan"),
        ((float("inf"),), 1, "learning rate inf"),
        ((), 1, r"lrs = \(\)"),
        ((0.1,), 0, "seeds = 0"),
    ],
)
def test_rates_and_seeds_are_checked_first(lrs: tuple[float, ...], seeds: int, said: str) -> None:
    images = load("digits", split="test", image_size=8)
    config = FinetuneConfig(steps=1, batch_size=8)
    hypernetwork = ghn.from_pretrained()
    with pytest.raises(ConfigError, match=said):
        compare(Tiny, images, images, images, hypernetwork, config, lrs=lrs, seeds=seeds)


def made(predicted: list[float], random: list[float], n: int) -> Comparison:
    def start(kind: str, values: list[float]) -> Start:
        k = len(values)
        return Start(kind, [0.1] * k, values, [0.1] * k, [[0, 5]] * k, [[0.1, 0.2]] * k)

    starts = [start("predicted", predicted), start("random", random), start("orthogonal", random)]
    return Comparison("net", "images", n, 5, starts, "")


@pytest.mark.parametrize(
    ("predicted", "random", "n", "said"),
    [
        ([0.6, 0.61, 0.6], [0.5, 0.5, 0.51], 10_000, "better"),
        ([0.4, 0.41, 0.4], [0.5, 0.5, 0.51], 10_000, "WORSE"),
        ([0.6, 0.61, 0.6], [0.5, 0.5, 0.51], 24, "No difference"),
        ([0.9, 0.3, 0.6], [0.5, 0.5, 0.51], 10_000, "No difference"),
        ([1.0], [1.0], 24, "No difference"),
    ],
)
def test_the_verdict_knows_the_noise(
    predicted: list[float], random: list[float], n: int, said: str
) -> None:
    found = made(predicted, random, n)
    assert said in found.verdict()
    assert found.gain()[1] > 0


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    found = made([0.5, 0.6], [0.4, 0.5], 100)
    found.draw(tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()
    for name in ("plot.xyz", "plot"):  # the library would write plot.png
        with pytest.raises(ConfigError, match=name):
            dataclasses.replace(found).draw(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.svg"]


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_an_empty_set_of_images_is_refused_first(empty: int) -> None:
    images = load("digits", split="train", image_size=8)
    sets = [images, images, images]
    sets[empty] = images.subset(range(0))
    part = ("training", "validation", "test")[empty]
    trained: list[str] = []
    with pytest.raises(ConfigError, match=f"the {part} set is empty"):
        compare(Tiny, *sets, ghn.from_pretrained(), on_training=lambda *said: trained.append("one"))
    assert not trained


def test_images_of_more_classes_than_the_network_has_are_refused() -> None:
    class Narrow(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 5)

    images = load("digits", split="test", image_size=8)
    config = FinetuneConfig(steps=1, batch_size=8)
    with pytest.raises(ConfigError, match="the network has 5 classes"):
        compare(Narrow, images, images, images, ghn.from_pretrained(), config, seeds=1)
