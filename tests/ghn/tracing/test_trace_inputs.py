"""What networks take: containers of tensors, devices, sizes of images; what misfits are told."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

import ghn
from ghn import trace
from ghn.errors import TraceError
from ghn.tracing.inputs import own_image_size

Pair = namedtuple("Pair", "image mask")


@dataclasses.dataclass(frozen=True)
class Sample:
    image: Tensor
    mask: Tensor


IMAGE, MASK = torch.zeros(2, 3, 32, 32), torch.ones(2, 1, 8, 8)
CONTAINERS: dict[str, Callable[[], Any]] = {
    "named tuple": lambda: Pair(IMAGE, MASK),
    "data class": lambda: Sample(IMAGE, MASK),
    "dictionary": lambda: {"image": IMAGE, "mask": MASK},
    "ordered": lambda: OrderedDict(image=IMAGE, mask=MASK),
    "user's dictionary": lambda: UserDict(image=IMAGE, mask=MASK),
    "nested": lambda: {"image": IMAGE, "more": [Pair(IMAGE, MASK)], "mask": MASK},
}


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 3)

    def forward(self, batch: Any) -> Tensor:
        if isinstance(batch, (dict, UserDict)):
            image, mask = batch["image"], batch["mask"]
        else:
            image, mask = batch.image, batch.mask
        return self.head((self.conv(image) * mask).mean((2, 3)))


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(name: str) -> None:
    graph = trace(Masked(), (CONTAINERS[name](),))
    assert "conv.weight" in graph.param
    assert graph.canonical_hash() == trace(Masked(), Pair(IMAGE, MASK)).canonical_hash()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_device_is_one_that_autocast_knows(device: str) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast(x.device.type, enabled=False):
                x = self.conv(x.float())
            return self.head(x.mean((2, 3)) + torch.arange(8, device=x.device))

    with torch.device(device):
        assert {"conv.weight", "head.weight"} <= set(trace(Mixed()).param)


class Flat(nn.Module):
    """Takes images of one size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * size * size, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(1))


def test_sizes_of_images() -> None:
    for size in (28, 32, 64, 224):
        assert "head.weight" in trace(Flat(size)).param
    assert "head.weight" in trace(Flat(96), image_size=96).param
    hypernetwork = ghn.from_pretrained()
    hypernetwork.metadata["image_size"] = 48
    hypernetwork(Flat(48))
    assert hypernetwork.reports[0].complete


def test_a_head_made_before_the_convolutions() -> None:
    class HeadFirst(Flat):
        def __init__(self, size: int) -> None:
            nn.Module.__init__(self)
            other = Flat(size)
            self.head, self.conv = other.head, other.conv

    assert trace(HeadFirst(32)).canonical_hash() == trace(Flat(32)).canonical_hash()


@pytest.mark.parametrize(
    ("said", "size"),
    [
        (40, 40),
        ((48, 40), 40),
        ([3, 40, 48], 40),
        (np.int64(40), 40),
        (np.array([40, 48]), 40),
        (torch.tensor(40), 40),
        (torch.Size([40, 48]), 40),
        ((40,), None),
        ((), None),
        (40.0, None),
        ((40.5, 40.5), None),
        ("40", None),
        (0, None),
        (lambda: 40, None),
        ({"height": 40}, None),
        (torch.zeros(2, 2), None),
        (torch.empty((), dtype=torch.int64, device="meta"), None),
    ],
)
def test_what_an_attribute_says_of_the_size(said: Any, size: int | None) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
    model.image_size = said
    assert own_image_size(model) == size
    assert trace(model).n_nodes > 1


@pytest.mark.parametrize(("said", "size"), [((3, 48, 40), 40), (40, None), ((40,), None)])
def test_what_a_configuration_says_of_the_size(said: Any, size: int | None) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
    model.pretrained_cfg = {"input_size": said}
    assert own_image_size(model) == size
    assert trace(model).n_nodes > 1


def test_a_misfit_is_one_message() -> None:
    with pytest.raises(TraceError) as caught:
        trace(Flat(40))
    message = str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert message.startswith("Flat fails on inputs of shape (2, 3, 224, 224): mat1 and mat2")
    assert "test_trace_inputs.py:" in message
    assert "nor does it take (2, 3, 32, 32)" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "alexnet"])
def test_a_small_image_that_hides_operations_is_not_taken(name: str) -> None:
    model = torchvision.models.get_model(name).to("meta")
    expected = trace(model, torch.zeros(2, 3, 224, 224))
    assert trace(model, image_size=32).to_json_dict() == expected.to_json_dict()


def test_a_result_without_tensors_is_named() -> None:
    class Holding(nn.Linear):
        def forward(self, input: Tensor) -> Any:
            return SimpleNamespace(logits=super().forward(input))

    with pytest.raises(TraceError, match="Holding returns a SimpleNamespace, in which no tensor"):
        trace(Holding(4, 3))
