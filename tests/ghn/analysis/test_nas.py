"""Scores against their definitions, worked out on networks small enough for pen and paper."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from ghn.analysis import SCORES, kendall_tau


def linear(weight):
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
    return layer


@pytest.fixture
def one_layer():
    """Two logits (w1 x, w2 x) of one pixel x = 2, w = (1, 0), class 0."""
    return (
        nn.Sequential(nn.Flatten(), linear([[1.0], [0.0]])),
        torch.full((1, 1, 1, 1), 2.0),
        torch.tensor([0]),
    )


# p = softmax(2, 0); dL/dz = (p0 - 1, p1) = (-q, q) with q = 1 / (1 + e^2); dL/dw = x dL/dz = (-2q,
# 2q)
Q = 1 / (1 + math.exp(2))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gradnorm", math.hypot(2 * Q, 2 * Q)),
        ("snip", abs(1 * -2 * Q)),
        ("plain", 1 * -2 * Q),
        ("fisher", (2 * -Q) ** 2 / 2),  # z = (2, 0)
        ("synflow", 1.0),  # sum of |w| on an input of ones
        ("synflow-bn", 1.0),
    ],
)
def test_one_linear_layer_by_hand(one_layer, name, expected):
    assert SCORES[name](*one_layer) == pytest.approx(expected, rel=1e-5)


def test_synflow_of_two_layers_is_the_sum_over_paths_once_per_layer():
    """Paths: |a11 b1| + |a12 b1| + |a21 b2| + |a22 b2|; w * dR/dw sums to R in each of the 2
    layers.
    """
    model = nn.Sequential(
        nn.Flatten(), linear([[1.0, -2.0], [3.0, 0.5]]), nn.ReLU(), linear([[-1.0, 2.0]])
    )
    paths = (1 + 2) * 1 + (3 + 0.5) * 2
    assert SCORES["synflow"](
        model, torch.zeros(4, 2, 1, 1), torch.zeros(4).long()
    ) == pytest.approx(2 * paths)


def test_synflow_leaves_batch_norm_out_and_synflow_bn_does_not():
    model = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1), nn.Flatten(), linear([[3.0]])
    )
    with torch.no_grad():
        model[0].weight.fill_(-2.0)
        model[1].weight.fill_(5.0)
    x, y = torch.zeros(2, 1, 1, 1), torch.zeros(2).long()
    assert SCORES["synflow"](model, x, y) == pytest.approx(2 * 6)
    assert SCORES["synflow-bn"](model, x, y) == pytest.approx(2 * 6 * 5 / math.sqrt(1 + 1e-5))


def test_fisher_sums_positions_before_the_square_and_channels_after():
    """A 1x1 convolution over two positions, then their mean as both logits' input."""
    conv = nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.tensor([[1.0, 3.0]]).view(1, 1, 1, 2)
    # logits (2, -2); q = 1 / (1 + e^4); dL/dz = -q/2, q/2 per position; z = (1, 3), (-1, -3)
    q = 1 / (1 + math.exp(4))
    expected = ((4 * -q / 2) ** 2 + (-4 * q / 2) ** 2) / 2
    assert SCORES["fisher"](model, x, torch.tensor([0])) == pytest.approx(expected, rel=1e-5)


class Residual(nn.Module):
    """A layer whose output is added to, a layer whose output an activation changes."""

    def __init__(self, inplace):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.hidden, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.inplace, self.activation = inplace, nn.Hardswish(inplace)

    def forward(self, x):
        x = self.first(x)
        y = self.second(x.relu())
        if self.inplace:
            y += x
        else:
            y = y + x
        return self.head(self.activation(self.hidden(y.mean((2, 3)))))


@pytest.mark.parametrize("name", SCORES)
def test_operations_in_place_change_no_score(name):
    x, y = torch.randn(5, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    scores = [SCORES[name](Residual(inplace), x, y) for inplace in (True, False)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


def test_fisher_is_linear_in_no_batch_size(one_layer):
    """The mean over the batch of squares of the mean loss's gradients: of two equal images a
    quarter of that of one.
    """
    model, x, y = one_layer
    assert SCORES["fisher"](model, x.expand(2, -1, -1, -1), y.expand(2)) == pytest.approx(
        SCORES["fisher"](model, x, y) / 4, rel=1e-5
    )


def test_jacobcov_of_two_known_jacobians():
    """relu(x1) or relu(x2) is active: Jacobians (1, 0, 0) and (0, 1, 0), correlation -1/2,
    eigenvalues 1/2 and 3/2.
    """
    model = nn.Sequential(
        nn.Flatten(), linear([[1.0, 0, 0], [0, 1.0, 0]]), nn.ReLU(), linear([[1.0, 1.0]])
    )
    x = torch.tensor([[1.0, -1, 0], [-1, 1, 0]]).view(2, 3, 1, 1)
    k = 1e-5
    expected = -sum(math.log(e + k) + 1 / (e + k) for e in (0.5, 1.5))
    assert SCORES["jacobcov"](model, x, torch.zeros(2).long()) == pytest.approx(expected, rel=1e-6)


def test_jacobcov_is_low_where_images_are_not_told_apart():
    model = nn.Sequential(nn.Flatten(), linear([[1.0, -1, 0.5]]))
    assert SCORES["jacobcov"](model, torch.randn(4, 3, 1, 1), torch.zeros(4).long()) < -1e4


@pytest.mark.parametrize("name", SCORES)
def test_scores_leave_the_network_as_it_was(name):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(16, 3),
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x, y = torch.randn(5, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    value = SCORES[name](model, x, y)
    assert math.isfinite(value)
    assert value == SCORES[name](model, x, y)
    assert model.training
    for key, old in before.items():
        assert torch.equal(old, model.state_dict()[key])


def test_batch_norms_without_running_statistics_are_fine():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    x, y = torch.randn(5, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    assert all(math.isfinite(score(model, x, y)) for score in SCORES.values())


def small(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3)
    )


@pytest.mark.parametrize("wrap", [weight_norm, torch.nn.utils.weight_norm])
@pytest.mark.parametrize("name", SCORES)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_computed_weights_count_as_plain_ones(name, wrap):
    x, y = torch.randn(5, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    plain, computed = small(), small()
    for layer in (computed[0], computed[2], computed[5]):
        wrap(layer)
    expected = SCORES[name](plain, x, y)
    assert expected != 0
    assert SCORES[name](computed, x, y) == pytest.approx(expected, rel=1e-4)
    assert SCORES[name](computed, x, y) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", SCORES)
def test_frozen_layers_are_left_out(name):
    x, y = torch.randn(5, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    whole = SCORES[name](small(), x, y)
    model = small()
    model[0].requires_grad_(False)
    if name == "jacobcov":  # of gradients by images alone
        assert SCORES[name](model, x, y) == whole
        return
    assert SCORES[name](model, x, y) != pytest.approx(whole, rel=1e-5)
    assert SCORES[name](model.requires_grad_(False), x, y) == 0


@pytest.mark.parametrize("name", SCORES)
def test_a_weight_that_layers_share_counts_once(name):
    first, second = linear([[1.0, -2.0], [3.0, 0.5]]), linear([[0.0, 0.0], [0.0, 0.0]])
    second.weight = first.weight
    x, y = torch.randn(5, 2, 1, 1), torch.tensor([0, 1, 0, 0, 1])
    twice = nn.Sequential(nn.Flatten(), first, nn.Tanh(), first)
    shared = nn.Sequential(nn.Flatten(), first, nn.Tanh(), second)
    assert SCORES[name](shared, x, y) == pytest.approx(SCORES[name](twice, x, y), rel=1e-5)


class Pointwise(nn.Module):
    """A 1x1 convolution, also as a linear layer with channels last."""

    def __init__(self, channels_last):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.layer, self.head = nn.Conv2d(3, 4, 2), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)
        self.channels_last = channels_last
        if channels_last:
            weight, bias = self.layer.weight.flatten(1), self.layer.bias
            self.layer = nn.Linear(4, 4)
            self.layer.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, x):
        x = self.stem(x)
        if self.channels_last:
            x = self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        else:
            x = self.layer(x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("name", SCORES)
def test_a_linear_layer_with_channels_last_is_a_pointwise_convolution(name):
    x, y = torch.randn(5, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    scores = [SCORES[name](Pointwise(channels_last), x, y) for channels_last in (True, False)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


def test_synflow_leaves_out_a_batch_norm_under_each_of_its_names():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1)
            self.others = nn.ModuleList([self.norm])

        def forward(self, x):
            return self.others[0](self.norm(self.conv(x))).flatten(1)

    model = Twice()
    nn.init.constant_(model.conv.weight, -2.0)
    nn.init.constant_(model.norm.weight, 5.0)
    assert SCORES["synflow"](model, torch.zeros(2, 1, 1, 1), None) == pytest.approx(2)


def test_fisher_of_a_compiled_network_is_that_of_the_network():
    compiled = torch.compile(small(), backend="eager")
    x, y = torch.randn(4, 3, 4, 4), torch.tensor([0, 1, 2, 0])
    SCORES["snip"](compiled, x, y)  # compiles it, without hooks
    assert SCORES["fisher"](compiled, x, y) == SCORES["fisher"](small(), x, y) > 0


def test_kendalls_tau_counts_pairs():
    """Of 6 pairs, 5 agree and 1 disagrees."""
    assert kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    # a tie on one side: (C - D) / sqrt((n - ties_a) (n - ties_b)) = 5 / sqrt(5 * 6)
    assert kendall_tau([1, 1, 3, 4], [1, 2, 3, 4]) == pytest.approx(5 / math.sqrt(5 * 6))
    assert np.isnan(kendall_tau([1, 1, 1], [1, 2, 3]))


@pytest.mark.golden
def test_networks_of_deepnets_are_scored_in_double_precision(golden_root):
    """Paths of a deep network of absolute weights overflow single precision, so nothing may cast
    back to it.
    """
    import json

    from datasets.deepnets import Architecture, Network

    with (golden_root / "deepnets_a.jsonl").open() as file:
        record = json.loads(next(file))
    model = Network(
        Architecture.from_json(json.dumps(record["args"])),
        channels=32,
        num_classes=10,
        image_size=16,
    )
    x, y = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    assert all(math.isfinite(score(model, x, y)) for score in SCORES.values())
