import math

import pytest
import torch
from torch import nn

from ghn.analysis import (
    accuracy,
    activation_variances,
    ensemble_accuracy,
    gradient_norm,
    layer_distance,
    matched,
    mean_cosine_distance,
)
from ghn.errors import ConfigError
from ghn.predict import batch_statistics


class TestDiversity:
    def test_three_vectors_by_hand(self):
        tensors = [torch.tensor([[1.0, 0]]), torch.tensor([[-2.0, 0]]), torch.tensor([[1.0, 1]])]
        # |cos|: 1, 1/sqrt(2), 1/sqrt(2)
        assert mean_cosine_distance(tensors) == pytest.approx(2 * (1 - 1 / math.sqrt(2)) / 3)

    def test_layers_of_one_shape_are_compared(self):
        a, b = torch.tensor([1.0, 0]).view(1, 2, 1, 1), torch.tensor([0.0, 1]).view(1, 2, 1, 1)
        alone = torch.ones(1, 3, 1, 1)
        assert layer_distance([a, b, alone, torch.ones(4)]) == pytest.approx(1)
        assert layer_distance([a, a * 2, alone]) == pytest.approx(0)
        assert layer_distance([a, alone]) is None

    def test_matching_undoes_a_permutation_of_channels(self):
        weight = torch.randn(16, 3, 3, 3, generator=torch.Generator().manual_seed(0))
        shuffled = weight[torch.randperm(16, generator=torch.Generator().manual_seed(1))] * 2
        assert torch.equal(matched(shuffled, weight), weight * 2)
        assert mean_cosine_distance([weight, shuffled], match=True) == pytest.approx(0, abs=1e-6)
        assert mean_cosine_distance([weight, shuffled]) > 0.5

    def test_matching_is_optimal_on_all_permutations_of_four(self):
        from itertools import permutations

        random = torch.Generator().manual_seed(0)
        a, b = torch.randn(4, 5, generator=random), torch.randn(4, 5, generator=random)
        best = min(float((a - b[list(order)]).norm()) for order in permutations(range(4)))
        assert float((a - matched(b, a)).norm()) == pytest.approx(best)

    def test_one_tensor_or_two_shapes_are_refused(self):
        with pytest.raises(ValueError, match="two or more"):
            mean_cosine_distance([torch.ones(2)])
        with pytest.raises(ValueError, match="one shape"):
            mean_cosine_distance([torch.ones(2), torch.ones(3)])


class TestActivations:
    def test_variance_after_each_layer_in_order_of_execution(self):
        torch.manual_seed(0)

        class Reversed(nn.Module):
            def __init__(self):
                super().__init__()
                self.last, self.first, self.norm = (
                    nn.Linear(4, 3),
                    nn.Conv2d(3, 4, 1),
                    nn.BatchNorm2d(4),
                )

            def forward(self, x):
                return self.last(self.norm(self.first(x)).relu().mean((2, 3)))

        model, x = Reversed(), torch.randn(6, 3, 5, 5)
        with batch_statistics(model):
            variances = activation_variances(model, x)
        assert list(variances) == ["first", "last"]
        h = model.first(x)
        assert variances["first"] == pytest.approx(h.var().item())
        normalised = nn.functional.batch_norm(h, None, None, training=True)
        assert variances["last"] == pytest.approx(
            model.last(normalised.relu().mean((2, 3))).var().item(), rel=1e-5
        )
        assert not model.norm.running_mean.any()
        assert model.training
        by_running = activation_variances(model.eval(), x)
        assert by_running["last"] == pytest.approx(model(x).var().item(), rel=1e-5)
        compiled = torch.compile(model, backend="eager")
        assert activation_variances(compiled, x) == by_running  # by the network's own names


def test_ensembles_average_logits():
    y = torch.tensor([0, 1])
    one, two = torch.tensor([[3.0, 0], [1, 0]]), torch.tensor([[-1.0, 0], [0, 4]])
    assert (accuracy(one, y), accuracy(two, y)) == (0.5, 0.5)
    assert ensemble_accuracy([one, two], y) == 1.0


class TestGradientNorm:
    def test_it_is_the_norm_of_all_gradients(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
        x, y = torch.randn(8, 3, 2, 2), torch.arange(8) % 3
        nn.functional.cross_entropy(model(x), y).backward()
        expected = (
            torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm().item()
        )
        own = model[1].weight.grad
        before = own.clone()
        assert gradient_norm(model, x, y) == pytest.approx(expected, rel=1e-5)
        assert model[1].weight.grad is own  # the caller's own gradients stay
        assert torch.equal(own, before)
        model.zero_grad()
        assert gradient_norm(model, x, y, chunk=3) == pytest.approx(expected, rel=1e-5)
        assert model[1].weight.grad is None

    def test_no_images_and_no_chunks_are_refused(self):
        model = nn.Linear(4, 3)
        with pytest.raises(ConfigError, match="0 images"):
            gradient_norm(model, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        with pytest.raises(ConfigError, match="-1 at a time"):
            gradient_norm(model, torch.zeros(2, 4), torch.tensor([0, 1]), chunk=-1)

    def test_running_statistics_and_modes_stay(self):
        model = nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)
        )
        model[1].eval()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        for chunk in (None, 4):
            gradient_norm(model, torch.randn(8, 3, 2, 2), torch.arange(8) % 3, chunk=chunk)
            assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
            assert [module.training for module in model] == [True, False, True, True, True]


def test_the_gradient_of_a_frozen_network_is_refused():
    model = nn.Linear(4, 3).requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter to train"):
        gradient_norm(model, torch.randn(2, 4), torch.tensor([0, 1]))
