"""Predictions leave alone what they must, and say what they are."""

from __future__ import annotations

import logging

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import ghn
from ghn import GHN
from ghn.architectures import build
from ghn.errors import ConfigError


class Tied(nn.Module):
    """An embedding whose table is the head as well."""

    def __init__(self, rows: int, padding: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, 16, padding_idx=padding)
        self.head = nn.Linear(16, rows, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x).mean(1))


@pytest.mark.parametrize(("rows", "padding"), [(100, 0), (100, 99), (50, 0), (50, 49), (40, -1)])
@pytest.mark.parametrize("tied", [False, True])
def test_padding_rows_keep_their_values(
    rows: int, padding: int, tied: bool, hypernetwork: GHN
) -> None:
    model: nn.Module = Tied(rows, padding)
    if not tied:
        model = nn.Sequential(model.table, nn.Flatten(), nn.Linear(256, 3))  # type: ignore[arg-type]
    table = next(module for module in model.modules() if isinstance(module, nn.Embedding))
    before = table.weight.detach().clone()
    assert not before[padding].any()
    hypernetwork(model)
    (report,) = hypernetwork.reports
    assert torch.equal(table.weight[padding], before[padding])
    kept = [entry for entry in report.kept if "table" in entry.name or entry.name == "0.weight"]
    changed = int((table.weight != before).sum())
    assert changed == table.weight.numel() - sum(entry.entries for entry in kept)
    state = hypernetwork.predict(model)
    name = next(name for name in state if "table" in name or name == "0.weight")
    assert torch.equal(state[name], table.weight)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_integers_keep_their_values(dtype: torch.dtype, hypernetwork: GHN) -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 8)
            self.codes = nn.Parameter(torch.ones(10, 8, dtype=dtype), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.first(x), self.codes.float() * 0.1)

    model = Quantised()
    hypernetwork(model, frozen="predict")
    assert (model.codes == 1).all()
    (kept,) = hypernetwork.reports[0].kept
    assert (kept.name, kept.reason) == ("codes", f"numbers of type {str(dtype)[6:]}")
    assert set(hypernetwork.predict(model)) == {"first.weight", "first.bias"}


def test_complex_numbers_keep_their_values(hypernetwork: GHN) -> None:
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.waves = nn.Parameter(torch.ones(8, 4, dtype=torch.complex64))
            self.head = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.linear(x.to(torch.complex64), self.waves).abs())

    model = Spectral()
    hypernetwork(model, example_inputs=torch.randn(2, 4))
    assert (model.waves == 1).all()
    assert [kept.name for kept in hypernetwork.reports[0].kept] == ["waves"]


def test_expanded_parameters_are_refused_before_anything_is_written(hypernetwork: GHN) -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 10)
    second.weight = nn.Parameter(torch.zeros(1, 4).expand(10, 4))
    before = first.weight.detach().clone()
    with pytest.raises(ConfigError, match=r"Sequential\.1\.weight is expanded"):
        hypernetwork([first, nn.Sequential(first, second)])
    with torch.inference_mode():
        second = nn.Linear(4, 10)
    with pytest.raises(ConfigError, match=r"1\.weight is a tensor of inference mode"):
        hypernetwork(nn.Sequential(first, second))
    assert torch.equal(first.weight, before)
    transposed = nn.Linear(4, 10)
    transposed.weight = nn.Parameter(torch.zeros(4, 10).t())
    hypernetwork(transposed)


def test_what_does_not_fit_is_said_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    hypernetwork = ghn.from_pretrained()
    model = torchvision.models.resnet18()
    model.bn1.running_mean.fill_(7)
    before = model.conv1.weight.detach().clone()
    for call in (hypernetwork, hypernetwork.predict):
        with pytest.raises(ConfigError, match=r"ResNet does not fit .* 1,000 classes.*statistics"):
            call(model, strict=True)
    assert torch.equal(model.conv1.weight, before)
    with caplog.at_level(logging.WARNING):
        hypernetwork(model)
    (report,) = hypernetwork.reports
    classes, images, statistics = report.warnings
    assert "1,000 classes, the hypernetwork was trained for 10" in classes
    assert "it takes images of 224 pixels, the hypernetwork was trained on 32 pixels" in images
    assert "statistics of 1 norms are those of the old parameters" in statistics
    assert all(warning in caplog.text for warning in report.warnings)
    assert all(f"warning: {warning}" in str(report) for warning in report.warnings)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert hypernetwork.predict(model).report.warnings == report.warnings
    assert all(warning in caplog.text for warning in report.warnings)
    assert float(model.bn1.running_mean.detach()[0]) == 7

    hypernetwork(build("resnet18", num_classes=1000, image_size=224))
    assert "images of 224 pixels" in hypernetwork.reports[0].warnings[1]
    hypernetwork(model, keep_head=True)
    assert not any("classes" in warning for warning in hypernetwork.reports[0].warnings)


@pytest.mark.parametrize("end", [nn.BatchNorm1d(10), nn.Identity()])
def test_a_head_that_cannot_be_kept_is_said(end: nn.Module) -> None:
    hypernetwork = ghn.from_pretrained()
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10), end
    )
    kept = isinstance(end, nn.Identity)
    before = model[3].weight.clone()
    hypernetwork(model, keep_head=True)
    assert torch.equal(model[3].weight, before) == kept
    assert kept != any("keep_head" in warning for warning in hypernetwork.reports[0].warnings)
    hypernetwork(model)
    assert not any("keep_head" in warning for warning in hypernetwork.reports[0].warnings)


def test_what_fits_is_not_warned_of() -> None:
    hypernetwork = ghn.from_pretrained()
    model = build("resnet18", num_classes=10, image_size=32)
    hypernetwork(model, strict=True)
    (report,) = hypernetwork.reports
    assert report.warnings == ()
    assert "reestimate_batch_norm" in report.notes[0]


@pytest.mark.parametrize("model", ["resnet18", None, ["resnet18"], torch.zeros(3)])
def test_what_is_no_network_is_named(model: object, hypernetwork: GHN) -> None:
    with pytest.raises(ConfigError, match=r"build\(NAME\) makes a network"):
        hypernetwork(model)
    if not isinstance(model, list):
        with pytest.raises(ConfigError, match="predicts the parameters of a network"):
            hypernetwork.predict(model)


def test_a_default_device_does_not_matter(hypernetwork: GHN) -> None:
    expected = hypernetwork.predict(build("resnet18", 10, 32))
    torch.set_default_device("meta")
    try:
        model = build("resnet18", 10, 32, device="cpu")
        state = hypernetwork.predict(model)
    finally:
        torch.set_default_device(None)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_statistics_of_all_norms_count(hypernetwork: GHN) -> None:
    """Also of those that are not PyTorch's: frozen ones are never estimated anew."""
    norm = torchvision.ops.FrozenBatchNorm2d(8)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    hypernetwork(model, strict=True)
    norm.running_mean.fill_(0.3)  # type: ignore[operator, union-attr]
    with pytest.raises(ConfigError, match=r"of 1 norms .* but not those of FrozenBatchNorm2d"):
        hypernetwork(model, strict=True)
