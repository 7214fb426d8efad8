"""Which channels the columns of weights read behind channel shuffles."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghn import trace
from ghn.architectures import build
from ghn.errors import InvalidGraphError
from ghn.graph import from_json_dict, from_networkx


def numbered(model: nn.Module, images: Tensor) -> dict[str, list[int]]:
    """What each dense convolution reads, by a pass in which every layer that mixes channels puts
    out the numbers of its channels and every other one hands on what it gets.
    """
    found: dict[str, list[int]] = {}

    def reads(name: str) -> Callable[..., None]:
        return lambda _, inputs: found.update({f"{name}.weight": inputs[0][0, :, 0, 0].tolist()})

    def numbers(_: nn.Module, __: object, output: Tensor) -> Tensor:
        return torch.arange(output.shape[1]).float()[None, :, None, None].expand_as(output)

    def keeps(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return inputs[0][:, :, :1, :1].expand_as(output)

    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            layer.register_forward_pre_hook(reads(name))
            layer.register_forward_hook(numbers)
        elif isinstance(layer, (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d)):
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
            layer.register_forward_hook(keeps)
    with torch.no_grad():
        model(images)
    return {name: [int(number) for number in read] for name, read in found.items()}


@pytest.mark.parametrize(
    "name", ["shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "little_shufflenet_v2"]
)
def test_shufflenet_as_a_pass_with_numbers_has_it(name: str) -> None:
    graph = trace(build(name, 10, 32, device="meta"))
    read = numbered(build(name, 10, 32).eval(), torch.zeros(1, 3, 32, 32))
    del read["conv1.0.weight"]  # which reads images
    moved = {key: value for key, value in read.items() if value != list(range(len(value)))}
    assert len(moved) > 8
    assert {key: value.tolist() for key, value in graph.columns.items()} == moved


class Shuffling(nn.Module):
    """Four groups of three channels."""

    def __init__(self, shuffle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3)
        self.norm = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, groups=12)
        self.second = nn.Conv2d(12, 8, 1)
        self.third = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)
        self.shuffle = shuffle

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.shuffle(self.first(x))
        x = self.second(F.relu(self.depthwise(self.norm(x))))
        logits: Tensor = self.head(self.third(x).mean((2, 3)))
        return logits


SHUFFLES: dict[str, Callable[[Tensor], Tensor]] = {
    "transpose": lambda x: x.view(-1, 4, 3, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
    "contiguous": lambda x: (
        x.reshape(len(x), 4, 3, *x.shape[2:]).permute(0, 2, 1, 3, 4).contiguous().flatten(1, 2)
    ),
    "permute": lambda x: x.unflatten(1, (4, 3)).permute([0, 2, 1, 3, 4]).reshape(x.shape),
    "module": nn.ChannelShuffle(4),
    "native": lambda x: torch.channel_shuffle(x, 4),
    "named": lambda x: torch.channel_shuffle(x, groups=4),
    "transpose named": lambda x: (
        x.view(-1, 4, 3, *x.shape[2:]).transpose(dim0=-3, dim1=1).reshape(shape=x.shape)
    ),
    "permute named": lambda x: torch.permute(x.unflatten(1, (4, 3)), dims=(0, 2, 1, 3, 4)).reshape(
        x.shape
    ),
    "swapaxes": lambda x: torch.swapaxes(x.view(-1, 4, 3, *x.shape[2:]), axis0=1, axis1=2).flatten(
        1, 2
    ),
    "in halves": lambda x: torch.cat(
        [torch.channel_shuffle(half, 4) for half in x.chunk(2, dim=2)], axis=2
    ),
    "halved": lambda x: torch.cat(torch.split(torch.channel_shuffle(x, 4), 3, dim=3), 3),
}


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_each_way_to_shuffle(shuffle: str, device: str) -> None:
    model = Shuffling(SHUFFLES[shuffle]).to(device)
    columns = trace(model, torch.empty(2, 3, 16, 16)).columns
    assert {name: read.tolist() for name, read in columns.items()} == {
        "second.weight": [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]
    }


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_programs_of_export_say_the_same(shuffle: str) -> None:
    def halved(x: Tensor) -> Tensor:
        return torch.cat(SHUFFLES[shuffle](x).split([4, 8], 1)[::-1], 1)

    model, images = Shuffling(halved), torch.empty(2, 3, 16, 16)
    expected = trace(model, images).columns
    assert expected.keys() == {"second.weight"}
    for shapes in (None, ({0: torch.export.Dim.AUTO},)):  # a batch of two, of any size
        found = trace(torch.export.export(model, (images,), dynamic_shapes=shapes)).columns
        assert found.keys() == expected.keys()
        assert all((found[name] == read).all() for name, read in expected.items())


@pytest.mark.parametrize(
    ("pick", "places"),
    [
        (lambda x: torch.cat([x[:, 4:], x[:, :4]], 1), [*range(4, 12), *range(4)]),
        (lambda x: torch.cat([x[..., ::2, 1:, :], x[:, 1::2, ..., 1:, :]], 1),
         [*range(0, 12, 2), *range(1, 12, 2)]),
        (lambda x: x[:1][:, :, 2:10], range(12)),
    ],
)  # fmt: skip
def test_slices_are_followed(pick: Callable[[Tensor], Tensor], places: Sequence[int]) -> None:
    model = Shuffling(lambda x: pick(SHUFFLES["native"](x)))
    read = trace(model, torch.empty(2, 3, 16, 16)).columns["second.weight"]
    order = [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]
    assert read.tolist() == [order[place] for place in places]


class DenseBlock(nn.Module):
    """Lists of features that grow, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.layers = nn.ModuleList(nn.Conv2d(4 * k, 4, 1) for k in (1, 2, 3))
        self.after = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Of both the sum."""
        features = [self.stem(x)]
        for layer in self.layers:
            joined = torch.cat(features, 1)
            features.append(layer(joined))
            if len(features) == 3:
                kept = joined
        out: Tensor = self.after(torch.channel_shuffle(kept, 2)) + features[-1]
        return out


def test_a_concatenation_is_of_what_was_in_the_list_then() -> None:
    columns = trace(DenseBlock(), torch.empty(2, 3, 8, 8)).columns
    assert {name: read.tolist() for name, read in columns.items()} == {
        "after.weight": [0, 0, 1, 1, 2, 2, 3, 3]
    }


def test_twice_is_the_product() -> None:
    once = SHUFFLES["module"]
    model = Shuffling(lambda x: once(F.relu(once(x))))
    read = trace(model, torch.empty(2, 3, 16, 16)).columns["second.weight"]
    assert read.tolist() == np.arange(12).reshape(4, 3).T.reshape(4, 3).T.reshape(-1).tolist()


@pytest.mark.parametrize(
    "same",
    [
        lambda x: x,
        lambda x: x.view(-1, 4, 3, *x.shape[2:]).mul(2).view(x.shape),
        lambda x: x.view(-1, 4, 3, *x.shape[2:]).transpose(3, 4).reshape(x.shape),
        lambda x: torch.cat(x.chunk(2, 1), 1),
        lambda x: x.transpose(2, 3),
    ],
)
def test_nothing_is_said_where_channels_stay(same: Callable[[Tensor], Tensor]) -> None:
    assert trace(Shuffling(same), torch.empty(2, 3, 16, 16)).columns == {}


@pytest.mark.parametrize(
    "name", ["densenet121", "googlenet", "resnext50_32x4d", "swin_t", "vit_b_32", "squeezenet1_1"]
)
def test_no_other_family_shuffles(name: str) -> None:
    assert trace(build(name, device="meta")).columns == {}


def test_graphs_take_columns_along_and_check_them() -> None:
    graph = trace(build("little_shufflenet_v2", 10, 32, device="meta"))
    for other in (
        from_json_dict(graph.to_json_dict()),
        from_networkx(graph.to_networkx()),
    ):
        assert other.columns.keys() == graph.columns.keys()
        assert all((other.columns[name] == read).all() for name, read in graph.columns.items())
    values = graph.to_json_dict()
    name = next(iter(graph.columns))
    for wrong, said in (
        ({name: [-1] * len(graph.columns[name])}, "are no channels"),
        ({name: [0]}, "must be"),
        ({"nowhere": [0]}, "must be 0 channels"),
        ([], "not a mapping"),
    ):
        with pytest.raises(InvalidGraphError, match=said):
            from_json_dict(values | {"columns": wrong})
