"""Weights that are computed get the predicted value, whatever they are computed from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from ghn import GHN, coverage
from ghn.predict.weights import LayerWeights


class Scaled(nn.Module):
    """A parametrization of a user."""

    def forward(self, raw: Tensor) -> Tensor:
        return 3 * raw

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight / 3


class OneWay(nn.Module):
    def forward(self, raw: Tensor) -> Tensor:
        return raw.abs()


def network(change: Callable[[nn.Module], object]) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    change(model[0])
    return model


def effective(module: nn.Module) -> Tensor:
    """The weight that the forward pass uses."""
    module.eval()
    module(torch.zeros(1, 3, 5, 5))  # hooks of the old kind set it
    return module.weight.detach()


WAYS: dict[str, Callable[[nn.Module], object]] = {
    "weight norm": parametrizations.weight_norm,
    "weight norm along another dimension": lambda m: parametrizations.weight_norm(m, dim=1),
    "old weight norm": nn.utils.weight_norm,
    "of a user": lambda m: parametrize.register_parametrization(m, "weight", Scaled()),
    "two at once": lambda m: [
        parametrize.register_parametrization(m, "weight", Scaled()) for _ in range(2)
    ],
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("way", WAYS)
def test_the_effective_weight_is_the_prediction(way: str, hypernetwork: GHN) -> None:
    expected = hypernetwork.predict(network(lambda m: None))["0.weight"]
    model = network(WAYS[way])
    parameters = dict(model.named_parameters())
    where = {name: p.data_ptr() for name, p in parameters.items()}
    hypernetwork(model)
    (report,) = hypernetwork.reports
    assert report.complete
    assert set(report.predicted) == set(parameters)
    torch.testing.assert_close(effective(model[0]), expected)
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == where

    other = network(WAYS[way])
    state = hypernetwork.predict(other)
    assert set(state) == set(parameters)
    other.load_state_dict(state, strict=False)
    torch.testing.assert_close(effective(other[0]), expected)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("way", [parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_what_a_parametrization_demands_is_said(
    way: Callable[[nn.Module], object], hypernetwork: GHN
) -> None:
    expected = hypernetwork.predict(network(lambda m: None))["0.weight"]
    model = network(way).train()
    hypernetwork(model)
    assert all(module.training for module in model.modules())
    sigma = torch.linalg.matrix_norm(expected.flatten(1), ord=2)
    torch.testing.assert_close(effective(model[0]), expected / sigma, rtol=0.02, atol=1e-4)
    assert "0.weight is computed and differs from its prediction" in str(hypernetwork.reports[0])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("way", [parametrizations.spectral_norm, nn.utils.spectral_norm])
@pytest.mark.parametrize("training", [False, True])
def test_a_weight_of_a_spectral_norm_is_predicted_aside(
    way: Callable[[nn.Module], object], training: bool, hypernetwork: GHN
) -> None:
    """The state has what power iterations leave, without which the weight is many times too
    large.
    """
    model = network(way).train(training)
    effective(model[0])
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    left = vars(model[0]).get("weight")  # by a hook
    state = hypernetwork.predict(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert vars(model[0]).get("weight") is left
    assert all(module.training is training for module in model.modules())
    written = network(way)
    hypernetwork(written)
    assert str(state.report) == str(hypernetwork.reports[0])
    assert "differs from its prediction" in str(state.report)
    model.load_state_dict(state, strict=False)
    torch.testing.assert_close(effective(model[0]), effective(written[0]), rtol=0.02, atol=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("way", [parametrizations.spectral_norm, nn.utils.spectral_norm])
@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_a_network_that_keeps_its_weight_is_as_before(
    way: Callable[[nn.Module], object], value: float
) -> None:
    """Power iterations leave buffers that are not numbers, in place."""
    model = network(way)
    expected = effective(model[0]).clone()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = torch.full_like(expected, value)
    assert not LayerWeights(model).write(model[0], "weight", wanted)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(effective(model[0]), expected)


def test_a_state_has_no_parameter_that_was_not_predicted(hypernetwork: GHN) -> None:
    model = network(lambda m: parametrize.register_parametrization(m, "weight", Scaled()))
    model[0].parametrizations.weight[0].own = nn.Parameter(torch.ones(()))
    state = hypernetwork.predict(model)
    assert set(state) == set(state.report.predicted)


def test_what_cannot_be_inverted_is_kept_and_listed(hypernetwork: GHN) -> None:
    model = network(lambda m: parametrize.register_parametrization(m, "weight", OneWay()))
    before = model[0].parametrizations.weight.original.clone()
    hypernetwork(model)
    assert torch.equal(model[0].parametrizations.weight.original, before)
    (kept,) = hypernetwork.reports[0].kept
    assert kept.name == "0.parametrizations.weight.original"
    assert "cannot be inverted" in kept.reason
    frozen = network(parametrizations.weight_norm)
    frozen[0].parametrizations.weight.original0.requires_grad_(False)
    before = frozen[0].weight.detach().clone()
    hypernetwork(frozen)
    assert torch.equal(frozen[0].weight, before)


class Loudness(nn.Module):
    """A weight of norm one, whose inverse finds silence."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.norm()

    def right_inverse(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def test_a_weight_that_would_not_be_finite_is_kept_and_listed(hypernetwork: GHN) -> None:
    model = network(lambda m: parametrize.register_parametrization(m, "weight", Loudness()))
    original = model[0].parametrizations.weight.original
    with torch.no_grad():  # registering it has asked for the inverse, too
        original.normal_()
    before = original.clone()
    aside = hypernetwork.predict(model)
    hypernetwork(model)
    assert torch.equal(original, before)
    (kept,) = hypernetwork.reports[0].kept
    assert aside.report.kept == (kept,)
    assert kept.reason == "its parametrization gives numbers that are not finite"


def test_an_orthogonal_weight_is_predicted_aside(hypernetwork: GHN) -> None:
    """Its inverse sets a buffer, and draws random numbers."""

    def network() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(parametrizations.orthogonal(nn.Linear(16, 10)), nn.Linear(10, 10))

    model, inputs = network(), torch.randn(2, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    one, other = (hypernetwork.predict(model, example_inputs=inputs) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    written = network()
    hypernetwork(written, example_inputs=inputs)
    model.load_state_dict(one, strict=False)
    assert torch.equal(model[0].weight, written[0].weight)  # type: ignore[index, arg-type]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("fill", [0.0, float("nan")])
@pytest.mark.parametrize("way", [*WAYS, "spectral norm", "orthogonal", "one way"])
def test_coverage_does_not_hang_on_what_memory_holds(
    way: str, fill: float, hypernetwork: GHN, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: dict[str, Callable[[nn.Module], object]] = {
        "spectral norm": parametrizations.spectral_norm,
        "orthogonal": parametrizations.orthogonal,
        "one way": lambda m: parametrize.register_parametrization(m, "weight", OneWay()),
    }
    model = network((WAYS | others)[way])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = hypernetwork.predict(model).report
    empty = torch.empty

    def filled(*args: Any, **kwargs: Any) -> Tensor:
        made: Tensor = empty(*args, **kwargs)
        return made.fill_(fill) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", filled)
    report = coverage(model, hypernetwork)
    assert (report.predicted, report.kept) == (expected.predicted, expected.kept)
    assert not any("computed" in note for note in report.notes)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
