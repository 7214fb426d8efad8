"""The hypernetwork that the package ships does what its model card says of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import pytest
import torch

from datasets.images import load
from flows.networks.build import build_network
from flows.networks.score import score
from ghn import from_pretrained

NORMED = ("resnet18", "mnasnet0_5", "mobilenet_v3_small", "regnet_x_400mf")
OTHERS = ("shufflenet_v2_x0_5", "squeezenet1_1", "alexnet", "vit_b_32")
"""A shuffle of channels, no norm, flattened maps, layer norm."""


@pytest.mark.parametrize(("networks", "floor"), [(NORMED, 0.33), (OTHERS, 0.25)])
def test_untrained_networks_know_images_of_cifar10(
    networks: Sequence[str], floor: float, data_root: Path
) -> None:
    """The floors are below what four have together; chance is 0.1, a standard error 0.015."""
    ghn = from_pretrained()
    images = load("cifar10", data_root, split="test", image_size=ghn.image_size)
    batches = list(images.subset(range(256)).batches(64, 0))
    found = {}
    for name in networks:
        torch.manual_seed(0)  # of what is not predicted
        model, graph = build_network(name, ghn.num_classes, ghn.image_size)
        found[name] = score(ghn(model, graph), batches).accuracy
    assert mean(found.values()) > floor, found
