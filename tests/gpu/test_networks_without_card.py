"""Networks on a card that is not there: predicted, fine-tuned and initialised by every baseline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import torch
from pretended import CUDA, Count, card, counted
from torch import Tensor, nn
from torchvision import models

import ghn as ghn_package
from ghn import baselines
from ghn.architectures import TORCHVISION_74, build
from ghn.baselines import GradInitConfig, MetaInitConfig, NIOConfig
from ghn.finetune import FinetuneConfig, break_symmetry, finetune
from ghn.finetune.evaluation import accuracies
from ghn.models import GHN, GHNConfig


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


IMAGES: Any = _Blank()


@pytest.mark.parametrize("name", TORCHVISION_74)
def test_a_prediction_does_not_wait(name: str) -> None:
    model = build(name, device="meta")
    graph = ghn_package.trace(model)
    ghn = GHN.empty(GHNConfig.variant("ghn3-t", 1000))
    with card() as move:
        move(ghn), move(model)
        with counted() as count:
            ghn.initialize(model, graph)
        assert {parameter.device for parameter in model.parameters()} == {CUDA}
    assert len(count.waits) <= 1, count.waits  # whether running statistics are old ones
    assert count.sent == []
    # a few for each tensor, fewer where many have one shape, and what the graph takes
    assert count.total < 900 + 6 * sum(1 for _ in model.parameters())


def _tuned(steps: int, amp: bool | Literal["bf16", "fp16"], optimizer: str) -> Count:
    model = models.resnet18(num_classes=10)
    config = FinetuneConfig(
        steps=steps, batch_size=16, evaluation_batch=64, amp=amp, optimizer=optimizer
    )
    with card() as move:
        move(model)
        with counted([8.0, 8.0, float(steps), float(steps)]) as count:
            curve = finetune(model, IMAGES, IMAGES, config)
        assert curve.step == [0, steps]
        if optimizer == "sgd":
            assert torch._fused_sgd_.call_count == steps  # type: ignore[attr-defined]
    if optimizer == "adamw":
        assert count.operations["aten._fused_adamw_.default"] == steps
    return count


@pytest.mark.parametrize(
    ("amp", "optimizer"), [(False, "sgd"), ("bf16", "sgd"), ("fp16", "sgd"), ("bf16", "adamw")]
)
def test_fine_tuning_waits_when_it_measures_and_not_between(amp: Any, optimizer: str) -> None:
    few, many = (_tuned(steps, amp, optimizer) for steps in (2, 5))
    assert len(few.waits) == len(many.waits), many.waits
    assert few.sent == many.sent == []


def test_the_first_five_are_counted_with_one_wait() -> None:
    model = models.resnet18(num_classes=10)
    with card() as move:
        move(model)
        with counted() as count:
            assert len(accuracies(model, IMAGES, FinetuneConfig())) == 2  # top 1 and top 5
    assert len(count.waits) == 1, count.waits


def _norm_free(model: nn.Module, _n: int) -> None:
    baselines.fixup(baselines.without_norm(model))


def _metainit(model: nn.Module, n: int) -> None:
    baselines.metainit(model, (3, 32, 32), 10, MetaInitConfig(iterations=n))


def _selected(model: nn.Module, _n: int) -> None:
    wider = models.ResNet(models.resnet.BasicBlock, [2, 2, 2, 2], num_classes=10)
    larger = {
        name: torch.empty([2 * n if n > 10 else n for n in tensor.shape], device=CUDA)
        for name, tensor in wider.state_dict().items()
    }
    assert "fc.bias" not in baselines.weight_selection(model, larger)


RUN: dict[str, Callable[[nn.Module, int], object]] = {
    "orthogonal": lambda model, _n: baselines.orthogonal(model),
    "orthogonalise": lambda model, _n: baselines.orthogonalise(model),
    "fixup": _norm_free,
    "metainit": _metainit,
    "gradinit": lambda model, n: baselines.gradinit(model, IMAGES, GradInitConfig(iterations=n)),
    "nio": lambda model, n: baselines.nio(model, IMAGES, NIOConfig(iterations=n)),
    "weight_selection": _selected,
    "break_symmetry": lambda model, _n: break_symmetry(model),
}


def test_every_baseline_is_among_those_that_run() -> None:
    pieces = {"without_norm", "gradient_quotient", "gradient_cosine", "orthogonal_like"}
    reads_a_file = {"read_state_dict"}
    functions = {name for name in baselines.__all__ if inspect.isfunction(getattr(baselines, name))}
    assert functions == (set(RUN) - {"break_symmetry"}) | pieces | reads_a_file


@pytest.mark.parametrize("name", RUN)
def test_baselines_stay_on_the_card(name: str) -> None:
    waits = []
    for iterations in (2, 3):
        model: nn.Module = models.resnet18(num_classes=10)
        with card() as move:
            move(model)
            with counted() as count:
                RUN[name](model, iterations)
            assert {tensor.device for tensor in model.state_dict().values()} == {CUDA}
        waits.append(len(count.waits))
    assert waits[1] - waits[0] <= 2  # of an iteration: its value, and whether a bound holds
