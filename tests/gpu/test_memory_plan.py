"""The plan of a card's memory counts what a step keeps, and says what fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from pretended import CUDA, card
from torch import nn
from train_memory import GB, Alive, Plan, planned
from train_setting import make_batch

from datasets.deepnets import GenerateConfig, MetaBatches, generate_split
from ghn.models import GHNConfig
from ghn.train import TrainConfig
from ghn.train.step import MetaBatch

SMALL = GHNConfig(hidden=32, heads=8, num_classes=10, decoder_kernel=11, decoder_channels=32)


def test_tensors_count_while_they_live_and_views_do_not() -> None:
    with card() as move, Alive() as alive:
        x = torch.empty(1000, 1000, device=CUDA)
        layer = move(nn.Linear(1000, 1000))
        assert alive.bytes == 4_000_000 + 4_004_000
        y = torch.relu(layer(x)).view(-1)
        assert alive.bytes == 12_004_000  # the layer's own output is not kept
        del y
        assert alive.bytes == 8_004_000
    assert alive.largest == 4_004_000 - 4_000


@pytest.fixture(scope="module")
def plan() -> Callable[..., Plan]:
    batch = make_batch([0, 1], channels=32)

    def of(world: int = 1, **changes: object) -> Plan:
        config = TrainConfig(meta_batch_size=2, batch_size=64, **changes)
        return planned(SMALL, batch, 32, config, world)

    return of


def test_what_saves_memory_saves_it_in_the_plan(plan: Callable[..., Plan]) -> None:
    whole = plan()
    parameters = sum(p.numel() for p in _empty(SMALL))
    assert whole.weights == whole.gradients == whole.moments // 2 == 4 * parameters
    assert plan(recompute=True) == replace(whole, network=plan(recompute=True).network)
    assert plan(recompute=True).network < whole.network
    assert plan(4, shard_optimizer=True).moments == -(-whole.moments // 4)
    half = plan(amp="bf16")
    assert half.network < 0.8 * whole.network
    assert half.kept < whole.kept
    assert half.predicted == whole.predicted


def _empty(config: GHNConfig) -> list[nn.Parameter]:
    from ghn.models import GHN

    return list(GHN.empty(config).parameters())


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> MetaBatch:
    """What one of four ranks gets of eight networks of ImageNet's size and the published rules."""
    rules = GenerateConfig(shard_size=50, splits={"train": {"size": 40}})
    split = generate_split(tmp_path_factory.mktemp("split"), "train", rules, 1).split
    return MetaBatches(split, 8, 1000, 224, 1, 0, 4)[0]


def test_xl_trains_on_four_cards_of_40_gb(imagenet: MetaBatch) -> None:
    config = TrainConfig(amp="fp16")  # the paper's: m = 8, b = 128
    plan = planned(GHNConfig.variant("ghn3-xl"), imagenet, 224, config, 4)
    assert plan.weights + plan.moments == pytest.approx(12 * 654.4e6, rel=1e-3)
    assert plan.peak < 36 * GB, plan
    assert len(imagenet.networks) == 2
