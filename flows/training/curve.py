"""Accuracy of predicted parameters along the way of a training."""

from __future__ import annotations

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
        from flows.networks.score import score

        accuracies: dict[str, list[float]] = {}
        metrics: dict[str, float] = {}
        device = ghn.device
        for target in self.targets:
            model, graph = build_network(target, self.num_classes, self.image_size)
            batches = [(x.to(device), y.to(device)) for x, y in self.batches]
            accuracy = score(ghn(model.to(device), graph), batches).accuracy
            if target.split == TORCHVISION:
                metrics[target.id] = accuracy
            else:
                accuracies.setdefault(target.split, []).append(accuracy)
        for split, values in accuracies.items():
            metrics |= {f"{split}_mean": sum(values) / len(values), f"{split}_best": max(values)}
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
