"""Accuracy of predicted parameters along the way of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.networks.build import build_network
from flows.networks.targets import TORCHVISION, Target, open_split
from flows.settings import paths

if TYPE_CHECKING:
    import torch

    from datasets.images import ImageTensors
    from flows.settings.train import TrainStageConfig
    from ghn.models import GHN

BATCH = 64
"""Images per batch, if there are so many."""


@dataclass(frozen=True)
class Curve:
    """Accuracy of predicted parameters on architectures that training does not see, along the way.

    Attributes:
        targets: the architectures.
        batches: validation images and labels.
        num_classes: of the images.
        image_size: of the images.
    """

    targets: list[Target]
    batches: list[tuple[torch.Tensor, torch.Tensor]]
    num_classes: int
    image_size: int

    def __call__(self, ghn: GHN) -> dict[str, float]:
        """Mean and best accuracy per split; torchvision models by name."""
        return self.metrics([self.part(ghn, number) for number in range(len(self))])

    def __len__(self) -> int:
        return len(self.targets)

    def part(self, ghn: GHN, number: int) -> float:
        """Accuracy of one architecture."""
        from flows.networks.score import score

        model, graph = build_network(self.targets[number], self.num_classes, self.image_size)
        batches = [(x.to(ghn.device), y.to(ghn.device)) for x, y in self.batches]
        return score(ghn(model.to(ghn.device), graph), batches).accuracy

    def metrics(self, values: Sequence[float]) -> dict[str, float]:
        """Mean and best per split of the accuracies of all architectures."""
        accuracies: dict[str, list[float]] = {}
        metrics: dict[str, float] = {}
        for target, accuracy in zip(self.targets, values, strict=True):
            if target.split == TORCHVISION:
                metrics[target.id] = accuracy
            else:
                accuracies.setdefault(target.split, []).append(accuracy)
        for split, found in accuracies.items():
            metrics |= {f"{split}_mean": sum(found) / len(found), f"{split}_best": max(found)}
        return metrics


def curve(config: TrainStageConfig, images: ImageTensors, seed: int) -> Curve | None:
    """Makes what evaluates the hypernetwork along the way, or None if nothing is to be.

    Args:
        config: which architectures, and how many images.
        images: of validation, at the size that the run ends with.
        seed: of their order.
    """
    splits = ("val", "test") if config.curve_test else ("val",)
    targets = [
        Target(f"deepnets1m/{split}/{index}", split, index)
        for split in (splits if config.curve_architectures else ())
        for index in range(min(config.curve_architectures, len(open_split(paths.DEEPNETS, split))))
    ]
    targets += [Target(name, TORCHVISION) for name in config.curve_torchvision]
    if not targets:
        return None
    batches = list(images.batches(min(BATCH, len(images)), seed, drop_last=True))
    batches = batches[: max(1, config.curve_images // BATCH)]
    return Curve(targets, batches, images.num_classes, images.image_size)
