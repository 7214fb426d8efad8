"""A network is called with given parameters as `torch.func.functional_call` does it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from train_setting import make_batch

from ghn.train.functional import placed


def call(model: nn.Module, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
    with placed(model, parameters):
        out: Tensor = model(x)
    return out


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 4, bias=False)
        self.last.weight = self.first.weight
        self.nothing = None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.norm(self.first(x)))
        return out


def test_it_is_functional_call_with_shared_weights_and_names_that_are_not_there() -> None:
    model, x = _Tied(), torch.randn(5, 4)
    own = dict(model.named_parameters())
    for name in ("first.weight", "last.weight"):
        given = {name: torch.randn(4, 4), "norm.bias": torch.randn(4), "norm.nothing": x}
        expected = functional_call(model, given, (x,))
        assert torch.equal(call(model, given, x), expected)
        assert not torch.equal(model(x), expected)
    assert all(p is own[name] for name, p in model.named_parameters())
    assert model.last.weight is model.first.weight


def test_a_network_has_its_parameters_again_after_an_error() -> None:
    model = _Tied()
    own = model.first.weight
    with pytest.raises(RuntimeError, match="shape"):
        call(model, {"first.weight": torch.randn(4, 4)}, torch.randn(5, 3))
    assert model.first.weight is own


def test_networks_of_a_meta_batch() -> None:
    torch.manual_seed(0)
    x_BCHW = torch.randn(4, 3, 32, 32)
    for network in make_batch([0, 1, 2]).networks:
        given = {name: torch.randn(p.shape) for name, p in network.named_parameters()}
        torch.manual_seed(1)  # dropout
        expected = functional_call(network, given, (x_BCHW,))
        torch.manual_seed(1)
        assert torch.equal(call(network, given, x_BCHW), expected)
