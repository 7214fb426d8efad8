"""Entry points for `torch.hub`: hypernetworks, and networks whose parameters they predict.

hypernetwork = torch.hub.load("PATH OR OWNER/REPOSITORY", "ghn3", source="local")
model = torch.hub.load(..., "initialized", "resnet18", num_classes=10, image_size=32)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from ghn.models import GHN

# What torch.hub looks for before it runs an entry point.
dependencies = ["torch", "torchvision", "lazy_loader", "networkx", "pydantic", "safetensors"]


def ghn3(source: str | None = None, device: str | None = None) -> GHN:
    """A trained hypernetwork.

    Args:
        source: as `ghn.from_pretrained` takes it; None for the one in the package (CIFAR-10).
        device: where to put it.
    """
    import ghn

    return ghn.from_pretrained(source, device=device)


def initialized(
    name: str,
    num_classes: int | None = None,
    image_size: int | None = None,
    source: str | None = None,
    seed: int = 0,
) -> nn.Module:
    """A network by name with predicted parameters.

    Args:
        name: as `ghn.architectures.build` takes it.
        num_classes: by default those of the hypernetwork.
        image_size: side in pixels; by default what the hypernetwork was trained on.
        source: of the hypernetwork, as in `ghn3`.
        seed: of parameters that are not predicted, and of the noise between channels.
    """
    import torch

    import ghn
    from ghn.architectures import build

    hypernetwork = ghn.from_pretrained(source)
    classes = num_classes or hypernetwork.num_classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(name, classes, image_size or hypernetwork.image_size)
    return ghn.init_(model, hypernetwork, seed=seed)


__all__ = ["ghn3", "initialized"]
