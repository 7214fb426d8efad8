"""Predicted parameters of torchvision models against reference outputs, for GHN-3 and GHN-2.

The graphs are traced here, so that this is what a user gets who calls a released hypernetwork on a
torchvision model. Of each parameter the reference has the norm, the mean and the entries at flat
index 0, n//3, 2n//3 and n-1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ghn import GHN, load_checkpoint
from ghn.architectures import build, default_image_size
from ghn.tracing.run import trace

pytestmark = pytest.mark.golden

FAST = (
    "alexnet", "squeezenet1_1", "shufflenet_v2_x0_5", "googlenet", "mobilenet_v2", "regnet_y_400mf",
    "resnet50",
    "densenet169", "efficientnet_b1", "vit_b_16", "swin_b", "convnext_tiny",
)  # fmt: skip
SLOW = (
    "mnasnet0_5", "vgg11", "resnet18", "vgg11_bn", "mnasnet0_75", "vgg16", "regnet_x_400mf",
    "shufflenet_v2_x1_5",
    "vgg16_bn", "mnasnet1_0", "vgg19_bn", "regnet_x_800mf", "shufflenet_v2_x2_0", "mnasnet1_3",
    "densenet201",
    "regnet_x_1_6gf", "densenet161", "resnet101", "resnext50_32x4d", "regnet_y_1_6gf", "resnet152",
    "wide_resnet50_2",
    "regnet_y_3_2gf", "resnext101_32x8d", "vit_l_16", "regnet_y_8gf", "regnet_y_16gf",
    "efficientnet_b2",
    "regnet_y_32gf", "efficientnet_b3", "resnext101_64x4d", "efficientnet_b4", "convnext_small",
    "convnext_base",
    "efficientnet_b7", "convnext_large", "efficientnet_v2_m",
)  # fmt: skip
FILES = {"ghn3": "ghn3_h32_l3_k8_c1000.safetensors", "ghn2": "ghn2_h32_c1000.safetensors"}


@pytest.fixture(scope="module")
def records(golden_root: Path) -> dict[str, dict[str, Any]]:
    with (golden_root / "torchvision.jsonl").open() as file:
        return {record["arch"]: record for record in map(json.loads, file)}


@pytest.fixture(scope="module")
def hypernetworks(golden_root: Path) -> dict[str, GHN]:
    return {name: load_checkpoint(golden_root / file) for name, file in FILES.items()}


def test_no_model_is_forgotten(records: dict[str, Any]) -> None:
    assert sorted((*FAST, *SLOW)) == sorted(records)


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_predicted_parameters(
    name: str, records: dict[str, Any], hypernetworks: dict[str, GHN]
) -> None:
    assert default_image_size(name) == 224 or name == "inception_v3"
    model = build(name, device="meta")
    graph = trace(model)
    for kind, hypernetwork in hypernetworks.items():
        state = hypernetwork.predict(model, graph)
        for parameter, expected in records[name][kind].items():
            if expected is None:
                assert parameter not in state, f"{kind}: {parameter} must be left alone"
            else:
                assert parameter in state, f"{kind}: {parameter} must be predicted"
                _compare(
                    f"{kind}: {parameter}", _compared_part(parameter, state[parameter]), expected
                )
        assert set(state) <= set(records[name][kind])


def _compared_part(name: str, tensor: Tensor) -> Tensor:
    """All of a parameter, but of `pos_embedding` not the row of the class token."""
    return tensor[:, 1:] if name.endswith("pos_embedding") else tensor


def _compare(what: str, tensor: Tensor, expected: list[float]) -> None:
    norm, mean, *entries = expected
    n = tensor.numel()
    assert float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) == pytest.approx(
        norm, rel=1e-4
    ), what
    assert float(tensor.double().mean()) == pytest.approx(mean, abs=1e-5), what
    sampled = tensor.flatten()[[0, n // 3, 2 * n // 3, n - 1]]
    assert sampled.tolist() == pytest.approx(entries, abs=1e-5), what
