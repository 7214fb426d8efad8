import math

import pytest
import torch
from torch import nn

from datasets.images import ImageTensors
from flows.networks.build import gmacs
from flows.networks.score import score
from flows.settings.evaluate import EvaluateConfig
from flows.stages.evaluate import Evaluate, summarise


class Lookup(nn.Module):
    """Logits that rank the classes by the image's first pixel."""

    def __init__(self, table: torch.Tensor):
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table[x[:, 0, 0, 0].long()]


def batches_of(
    pixels: list[int], labels: list[int], size: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    images = torch.tensor(pixels, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2)
    return list(zip(images.split(size), torch.tensor(labels).split(size), strict=True))


def test_score_counts_first_and_first_five_places_and_averages_the_loss() -> None:
    table = torch.zeros(2, 8)
    table[0] = torch.arange(8, 0, -1)  # ranks 0, 1, 2, ...
    found = score(Lookup(table), batches_of([0, 0, 0, 0], [0, 4, 5, 0], 3))
    assert found.accuracy == 0.5
    assert found.correct.tolist() == [True, False, False, True]
    assert found.top5 == 0.75
    loss = nn.functional.cross_entropy(table[[0, 0, 0, 0]], torch.tensor([0, 4, 5, 0]))
    assert found.loss == pytest.approx(float(loss))


def test_logits_have_a_name_or_heads_beside_them() -> None:
    class Named(Lookup):
        def forward(self, x_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"features": x_BCHW, "logits": super().forward(x_BCHW)}

    class Headed(Lookup):
        def forward(self, x_BCHW: torch.Tensor) -> list[torch.Tensor]:
            logits = super().forward(x_BCHW)
            return [logits, -logits]

    table, batches = torch.eye(3), batches_of([0, 1, 2, 2], [0, 1, 2, 0], 4)
    assert score(Named(table), batches).accuracy == score(Headed(table), batches).accuracy == 0.75


def test_a_loss_that_is_not_finite_becomes_null() -> None:
    table = torch.full((1, 8), math.nan)
    assert score(Lookup(table), batches_of([0, 0], [1, 2], 2)).loss is None


def test_logits_that_are_not_finite_are_a_guess_and_not_class_0() -> None:
    table = torch.zeros(2, 8)
    table[0, 3] = 1
    table[1] = math.nan
    found = score(Lookup(table), batches_of([0, 1, 1, 1], [3, 0, 0, 0], 4))
    assert found.correct.tolist() == [True, False, False, False]
    assert found.nonfinite == 3
    assert found.accuracy == pytest.approx((1 + 3 / 8) / 4)
    assert found.top5 == pytest.approx((1 + 3 * 5 / 8) / 4)
    assert score(Lookup(table[1:]), batches_of([0], [0], 1)).accuracy == pytest.approx(1 / 8)


def test_score_uses_the_statistics_of_the_batch_and_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Flatten(), nn.Linear(16, 5)
    )
    images, labels = torch.randn(64, 3, 2, 2) * 3 + 7, torch.randint(5, (64,))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = score(model, [(images, labels)])
    h = nn.functional.batch_norm(
        model[0](images), None, None, model[1].weight, model[1].bias, training=True
    )
    expected = (model[4](h.flatten(1)).argmax(1) == labels).float().mean()
    assert found.accuracy == pytest.approx(float(expected))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_gmacs_of_a_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
    assert gmacs(model, 32) == pytest.approx(3 * 16 * 9 * 32 * 32 / 1e9)


def test_a_budget_shows_fewer_images_to_larger_networks_in_the_same_order() -> None:
    images = ImageTensors(
        torch.randint(0, 255, (130, 3, 32, 32), dtype=torch.uint8),
        torch.arange(130) % 10,
        tuple("0123456789"),
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
    )
    model = nn.Conv2d(3, 16, 3, padding=1)
    cost = gmacs(model, 32)

    def labels(budget: float | None) -> list[int]:
        config = EvaluateConfig(batch_size=64, max_gmacs=budget, min_images=20)
        measure = Evaluate(None, images, images, config, 1, "cpu")  # type: ignore[arg-type]
        batches = measure.batches(images, cost)
        return torch.cat([y for _, y in batches]).tolist()

    everything = labels(None)
    assert everything == [i % 10 for i in range(130)]
    assert labels(cost * 100.5) == everything[:100]
    assert labels(cost * 0.1) == everything[:20]
    assert labels(cost * 129.5) == everything[:128]  # the last batch would have been a single image


def test_summary_per_split_by_hand() -> None:
    def row(split: str, accuracy: float, random: float, error: str | None = None) -> dict:
        return {"split": split, "accuracy": accuracy, "randinit_accuracy": random, "error": error}

    summary = summarise(
        [
            row("test", 0.2, 0.1),
            row("test", 0.4, 0.1),
            row("wide", 0.6, 0.2),
            row("torchvision", 0, 0, "x"),
        ],
        0.1,
    )
    assert summary["test"]["mean"] == pytest.approx(0.3)
    assert summary["test"]["std"] == pytest.approx(0.1)
    assert summary["deepnets"]["mean"] == pytest.approx(0.4)
    assert summary["deepnets"]["randinit_mean"] == pytest.approx(0.13333)
    assert summary["deepnets"]["architectures"] == 3
    assert summary["torchvision"] == {"architectures": 1, "errors": 1, "chance": 0.1}
