"""Initialisations made from given weights: orthogonalised predictions, parts of larger networks."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from ghn.baselines import orthogonalise, read_state_dict, weight_selection
from ghn.errors import ConfigError, DamagedFileError
from ghn.finetune import break_symmetry


def layers():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 32, 3), nn.Linear(32, 24),
        nn.Linear(24, 10),
    )  # fmt: skip


class TestOrthogonalise:
    def test_weights_from_a_layer_on_are_orthogonal_and_the_classifier_stays(self):
        model = layers()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        assert orthogonalise(model, from_layer=2) == 2
        for index in (2, 3):
            weight = model[index].weight.detach()
            values = torch.linalg.svdvals(weight.reshape(len(weight), -1))
            torch.testing.assert_close(values, torch.ones_like(values))
        changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
        assert changed == {"2.weight", "3.weight"}

    def test_computed_weights_too_and_frozen_ones_stay(self):
        model = layers()
        parametrizations.weight_norm(model[2])
        model[3].requires_grad_(False)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        assert orthogonalise(model) == 2
        values = torch.linalg.svdvals(model[2].weight.detach().reshape(32, -1))
        torch.testing.assert_close(values, torch.ones_like(values))
        changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
        assert changed == {
            "0.weight",
            "2.parametrizations.weight.original0",
            "2.parametrizations.weight.original1",
        }

    def test_what_is_orthogonal_stays(self):
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
        nn.init.orthogonal_(model[0].weight)
        before = model[0].weight.detach().clone()
        orthogonalise(model)
        torch.testing.assert_close(model[0].weight.detach(), before)

    def test_tiled_channels_part_once_there_is_noise(self):
        """As predictions of wide layers are: rows that repeat."""
        model = layers()
        with torch.no_grad():
            model[2].weight.copy_(model[2].weight[:8].repeat(4, 1, 1, 1))
        break_symmetry(model, 1e-5)
        orthogonalise(model)
        rows = model[2].weight.detach().reshape(32, -1)
        torch.testing.assert_close(rows @ rows.T, torch.eye(32), atol=1e-4, rtol=0)

    def test_small_layers_may_stay(self):
        assert orthogonalise(layers(), min_channels=16) == 2


def resnet(depth, classes=10):
    torch.manual_seed(depth)
    return ResNet(BasicBlock, [depth, 1, 1, 1], num_classes=classes)


class TestWeightSelection:
    def test_of_each_dimension_evenly_spaced_places_are_taken(self):
        larger = {"weight": torch.arange(8.0)[:, None] * 10 + torch.arange(6.0)}
        small = nn.Linear(3, 4, bias=False)
        model = nn.Sequential()
        model.add_module("a", small)
        model.add_module("head", nn.Linear(4, 2))
        left = weight_selection(model, {"a.weight": larger["weight"]})
        expected = [[10.0 * r + c for c in (0, 2, 4)] for r in (0, 2, 4, 6)]
        assert small.weight.tolist() == expected
        assert left == ["head.weight", "head.bias"]

    def test_a_network_of_the_family_computes_what_its_larger_one_does_where_all_is_equal(self):
        """First layers of each stage: a ResNet of fewer blocks has the others of the larger one."""
        larger, smaller = resnet(3), resnet(2)
        left = weight_selection(smaller, larger.state_dict())
        assert left == []
        x = torch.randn(2, 3, 32, 32)
        larger.layer1[2] = nn.Identity()
        torch.testing.assert_close(smaller.eval()(x), larger.eval()(x))

    def test_classes_of_another_data_set_are_not_taken(self):
        smaller = resnet(1)
        head = smaller.fc.weight.detach().clone()
        assert weight_selection(smaller, resnet(2, classes=100).state_dict()) == [
            "fc.weight",
            "fc.bias",
        ]
        assert torch.equal(smaller.fc.weight, head)

    def test_layers_with_frozen_parameters_stay(self):
        smaller = resnet(1)
        smaller.bn1.weight.requires_grad_(False)
        smaller.layer1.requires_grad_(False)
        before = {name: tensor.clone() for name, tensor in smaller.state_dict().items()}
        larger = resnet(2)
        larger(torch.randn(4, 3, 32, 32))
        left = weight_selection(smaller, larger.state_dict())
        assert {name for name in left if name.startswith(("bn1.", "layer1."))} == set(left)
        assert {"bn1.running_mean", "layer1.0.conv1.weight"} < set(left)
        after = smaller.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in left)
        assert torch.equal(after["conv1.weight"], larger.conv1.weight)

    def test_another_family_is_refused(self):
        with pytest.raises(ConfigError, match="same family"):
            weight_selection(resnet(1), {"blocks.0.weight": torch.zeros(9, 9)})

    def test_files_of_both_kinds_and_what_is_none(self, tmp_path):
        state = layers().state_dict()
        save_file(state, tmp_path / "a.safetensors")
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / "b.pt")
        for name in ("a.safetensors", "b.pt"):
            found = read_state_dict(tmp_path / name)
            assert torch.equal(found["0.weight"], state["0.weight"])
        (tmp_path / "c.safetensors").write_bytes(b"nothing")
        (tmp_path / "c.pt").write_bytes(b"nothing")
        torch.save([1], tmp_path / "d.pt")
        for name in ("c.safetensors", "c.pt", "d.pt"):
            with pytest.raises(DamagedFileError, match=name):
                read_state_dict(tmp_path / name)
        with pytest.raises(ConfigError, match="no such file"):
            read_state_dict(tmp_path / "e.pt")
