"""Networks that a loader's worker builds and sends are those that would have been built here."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from datasets.deepnets import MetaBatches, Split, meta_batches, open_split
from datasets.deepnets.networks import network as network_module
from datasets.deepnets.networks.batch import Networks


@pytest.fixture(scope="module")
def train(store: Path) -> Split:
    return open_split(store, "train")


def _state(model: nn.Module) -> list[tuple[str, dict[str, object]]]:
    """All that forward passes may look at."""
    return [
        (
            name,
            {
                key: value
                for key, value in vars(module).items()
                if not key.startswith("_") and not isinstance(value, Tensor)
            },
        )
        for name, module in model.named_modules()
    ]


def test_packed_networks_are_the_built_ones(train: Split) -> None:
    dataset = MetaBatches(train, 8, seed=3)
    x_BCHW = torch.randn(2, 3, 32, 32)
    for step in range(3):
        networks = dataset[step].networks
        assert isinstance(networks, Networks)
        networks.pack()
        for built, got in zip(networks, pickle.loads(pickle.dumps(networks)), strict=True):
            assert repr(got) == repr(built)
            assert _state(got) == _state(built)
            shapes = {name: p.shape for name, p in built.named_parameters()}
            assert {name: p.shape for name, p in got.named_parameters()} == shapes
            assert all(parameter.is_meta for parameter in got.parameters())
            assert len({id(parameter) for parameter in got.parameters()}) == len(shapes)
            given = {name: torch.randn(shape) * 0.05 for name, shape in shapes.items()}
            outputs = []
            for network in (built, got):
                torch.manual_seed(0)  # dropout
                outputs.append(functional_call(network, given, (x_BCHW,)))
            assert torch.equal(*outputs)


def test_workers_build_and_the_training_process_does_not(
    train: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = [
        list(batch.networks) for batch in itertools.islice(meta_batches(MetaBatches(train, 4)), 2)
    ]
    batches = meta_batches(MetaBatches(train, 4), workers=1)
    sent = [next(batches)]  # the worker has started

    def refuse(*_: object) -> None:
        raise AssertionError("built in the training process")

    monkeypatch.setattr(network_module.Network, "_build", refuse)
    sent.append(next(batches))
    for own, other in zip(here, sent, strict=True):
        assert [repr(network) for network in other.networks] == [repr(network) for network in own]
    with pytest.raises(AssertionError, match="built in the training process"):
        list(MetaBatches(train, 4)[0].networks)
