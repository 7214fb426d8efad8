"""What is known of a card without one: devices are not mixed, nothing waits, calls are few."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pretended import CUDA, card, counted
from torch import Tensor, nn
from torchvision import models
from train_setting import make_batch

import ghn as ghn_package
from datasets.deepnets import GenerateConfig, MetaBatchConfig, MetaBatches, generate_split
from ghn.architectures import build
from ghn.baselines import (
    GradInitConfig,
    MetaInitConfig,
    fixup,
    gradinit,
    metainit,
    orthogonal,
    without_norm,
)
from ghn.finetune import FinetuneConfig, finetune
from ghn.models import GHN, GHNConfig
from ghn.train import TrainConfig
from ghn.train.data import StepData
from ghn.train.distributed import Ranks
from ghn.train.step import MetaBatch
from ghn.train.update import Outcome, Updates

TAKEN = [1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0]
"""What a step reads at first: four means, no rank failed, all take part, none is left out."""


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> MetaBatch:
    """A meta-batch of CIFAR size: m = 8, C = 32."""
    directory = tmp_path_factory.mktemp("split")
    config = GenerateConfig(shard_size=50, splits={"train": {"size": 32}})
    split = generate_split(directory, "train", config, 1).split
    return MetaBatches(split, 8, seed=1, config=MetaBatchConfig(channels=(32, 32)))[0]


def _hypernetwork(**changes: object) -> GHN:
    fields = {"hidden": 32, "layers": 3, "heads": 8, "num_classes": 10, "decoder_kernel": 11}
    return GHN(GHNConfig(**(fields | {"decoder_channels": 32} | changes)))


def _step(
    ghn: GHN, batch: MetaBatch, device: torch.device, images: int = 64, **recipe: object
) -> Outcome:
    x_BCHW = torch.zeros(images, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    y_B = torch.zeros(images, dtype=torch.int64, device=device)
    config = TrainConfig(steps=4, warmup_steps=1, batch_size=images, **recipe)
    outcome = Updates(ghn, config, Ranks(device=device)).take(0, StepData(x_BCHW, y_B, batch))
    assert not outcome.reason
    return outcome


@pytest.mark.parametrize("recipe", [{}, {"network_clip": 0.5}], ids=str)
def test_a_step_waits_twice(recipe: dict[str, object]) -> None:
    ghn, batch = _hypernetwork(), make_batch([0, 1, 2])
    with card() as move:
        move(ghn)
        with counted(TAKEN) as count:
            _step(ghn, batch, CUDA, **recipe)
    assert len(count.waits) == 2, count.waits  # means and verdict; the norm of the gradient
    assert count.sent == []


def test_a_step_of_the_gated_hypernetwork_waits_twice() -> None:
    ghn = _hypernetwork(message_passing="gated", layer_norm=False, edge_embedding="none")
    batch = make_batch([0, 2])
    with card() as move:
        move(ghn)
        with counted(TAKEN) as count:
            _step(ghn, batch, CUDA)
    assert len(count.waits) == 2, count.waits
    assert count.sent == []


def test_a_step_dispatches_no_more_than_before(cifar: MetaBatch) -> None:
    with counted() as count:  # on a CPU: their number does not hang on that of images
        _step(_hypernetwork(), cifar, torch.device("cpu"), images=2)
    # 21,900 for 2,065 parameters: 19,500, and in the first step the optimizer's memory
    assert count.total < 22_200, count.operations.most_common(20)


SOME = ("resnet18", "vit_b_16", "googlenet")


@pytest.mark.parametrize(
    "name",
    [
        name if name in SOME else pytest.param(name, marks=pytest.mark.slow)
        for name in models.list_models(module=models)
    ],
)
def test_predictions_do_not_wait(name: str) -> None:
    ghn = _hypernetwork(num_classes=1000)
    model = build(name, device="meta")
    graph = ghn_package.trace(model)
    with card() as move:
        move(ghn), move(model)
        with counted() as count:
            ghn.initialize(model, graph)
    assert {parameter.device for parameter in model.parameters()} == {CUDA}
    assert len(count.waits) <= 1, count.waits  # whether running statistics are old ones
    assert count.sent == []


class _Blank:
    """Images without values on the card."""

    def __len__(self) -> int:
        return 256

    def n_batches(self, batch_size: int, drop_last: bool = True) -> int:
        return 256 // batch_size

    def batches(self, batch_size: int, *_: object, **__: object) -> Iterator[tuple[Tensor, Tensor]]:
        for _number in range(256 // batch_size):
            x_BCHW = torch.empty(batch_size, 3, 32, 32, device=CUDA)
            yield x_BCHW, torch.empty(batch_size, dtype=torch.int64, device=CUDA)


def test_fine_tuning_waits_when_it_measures_and_not_between() -> None:
    waits = []
    for steps in (4, 12):
        model = models.resnet18(num_classes=10)
        config = FinetuneConfig(steps=steps, batch_size=16, evaluation_batch=64)
        with card() as move:
            move(model)
            with counted([8.0, 8.0, float(steps), float(steps)]) as count:
                finetune(model, _Blank(), _Blank(), config)  # type: ignore[arg-type]
        waits.append(count.waits)
    assert len(waits[0]) == len(waits[1]), waits


@pytest.mark.parametrize("name", ["orthogonal", "fixup", "metainit", "gradinit"])
def test_baselines_stay_on_the_card(name: str) -> None:
    model: nn.Module = models.resnet18(num_classes=10)
    with card() as move, counted():
        move(model)
        if name == "orthogonal":
            orthogonal(model)
        elif name == "fixup":
            fixup(without_norm(model))
        elif name == "metainit":
            metainit(model, (3, 32, 32), 10, MetaInitConfig(iterations=2))
        else:
            gradinit(model, _Blank(), GradInitConfig(iterations=2))  # type: ignore[arg-type]
        assert {parameter.device for parameter in model.parameters()} == {CUDA}
