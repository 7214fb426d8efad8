"""Each initialisation is held against its own claim."""

import itertools
import math
from copy import deepcopy
from statistics import median

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torchvision.models import ResNet, vit_b_16
from torchvision.models.resnet import BasicBlock

from datasets.images import load
from ghn.baselines import (
    GradInitConfig,
    MetaInitConfig,
    NIOConfig,
    fixup,
    gradient_cosine,
    gradient_quotient,
    gradinit,
    metainit,
    nio,
    orthogonal,
    orthogonalise,
    without_norm,
)
from ghn.baselines._nio import parts
from ghn.errors import ConfigError


@pytest.fixture(scope="module")
def digits():
    return load("digits", split="train", cache=None)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class TestOrthogonal:
    @pytest.mark.parametrize(
        "layer",
        [
            nn.Linear(7, 5),
            nn.Linear(5, 7),
            nn.Conv2d(3, 64, 3),
            nn.Conv2d(16, 4, 3),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.Conv2d(8, 12, (1, 7), groups=4),
        ],
        ids=str,
    )
    def test_all_singular_values_equal_the_gain(self, layer):
        orthogonal(layer, gain=1.5)
        for part in layer.weight.chunk(getattr(layer, "groups", 1)):
            values = torch.linalg.svdvals(part.reshape(len(part), -1))
            torch.testing.assert_close(values, torch.full_like(values, 1.5))
        assert not layer.bias.any()

    def test_query_key_and_value_are_orthogonal_each(self):
        layer = nn.MultiheadAttention(12, 3)
        orthogonal(layer)
        for part in layer.in_proj_weight.chunk(3):
            torch.testing.assert_close(part @ part.T, torch.eye(12), atol=1e-5, rtol=0)

    def test_the_seed_decides_and_embeddings_stay(self):
        with torch.device("meta"):
            names = [name for name, _ in vit_b_16().named_parameters()]
        assert "class_token" in names
        model = nn.Sequential(nn.Embedding(3, 4), nn.LayerNorm(4), nn.Linear(4, 4))
        before = model[0].weight.detach().clone()
        first = orthogonal(model, seed=1)[2].weight.detach().clone()
        assert torch.equal(first, orthogonal(model, seed=1)[2].weight)
        assert not torch.equal(first, orthogonal(model, seed=2)[2].weight)
        assert torch.equal(before, model[0].weight)

    @pytest.mark.filterwarnings("ignore::FutureWarning")
    @pytest.mark.parametrize("compute", [parametrizations.weight_norm, nn.utils.weight_norm])
    def test_computed_weights_are_orthogonal(self, compute):
        model = nn.Sequential(compute(nn.Conv2d(4, 8, 3, groups=2)), nn.Flatten(), nn.Linear(8, 3))
        model(torch.zeros(1, 4, 3, 3))
        orthogonal(model)
        for part in model[0].weight.detach().chunk(2):
            values = torch.linalg.svdvals(part.reshape(4, -1))
            torch.testing.assert_close(values, torch.ones_like(values))

    def test_a_computed_weight_of_zeros_is_refused_by_its_norm(self):
        model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
        before = model[0].weight.detach().clone()
        orthogonal(model, gain=0.0)
        torch.testing.assert_close(model[0].weight.detach(), before)
        assert not model[1].weight.any()

    def test_frozen_parameters_stay(self):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.MultiheadAttention(8, 2), nn.Linear(8, 8), nn.Linear(8, 3)
        )
        model[:2].requires_grad_(False)
        model[2].bias.requires_grad_(False)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        orthogonal(model)
        changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
        assert changed == {"2.weight", "3.weight", "3.bias"}

    def test_determinants_take_both_signs(self):
        """QR without the sign correction would not be uniform over the orthogonal group."""
        layer = nn.Linear(3, 3)
        signs = [
            float(torch.linalg.det(orthogonal(layer, seed=seed).weight.detach()))
            for seed in range(40)
        ]
        assert 8 < sum(sign > 0 for sign in signs) < 32


class TestFixUp:
    @staticmethod
    def network(depth, scalars=True):
        return without_norm(ResNet(BasicBlock, [depth, 1, 1, 1], num_classes=10), scalars=scalars)

    def test_blocks_start_as_the_identity_and_the_network_at_zero(self):
        model = fixup(self.network(3)).eval()
        h = torch.rand(2, 64, 8, 8)
        torch.testing.assert_close(model.layer1(h), h)
        assert not model(torch.randn(2, 3, 32, 32)).any()

    def test_first_layers_of_a_branch_are_scaled_by_the_number_of_branches(self):
        model = fixup(self.network(5))  # L = 8 branches of m = 2 layers: L^(-1/2)
        weight = model.layer1[0].conv1.weight
        assert float(weight.detach().std()) == pytest.approx(
            8**-0.5 * math.sqrt(2 / (64 * 9)), rel=0.03
        )

    @staticmethod
    def movement(model, steps=3, lr=0.05):
        """How far SGD moves the logits of a batch."""
        x, y = torch.randn(8, 3, 32, 32), torch.arange(8)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        with torch.no_grad():
            before = model(x)
        for _ in range(steps):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            return float((model(x) - before).norm())

    def test_an_update_changes_the_function_by_the_same_amount_at_any_depth(self):
        shallow, deep = (self.movement(fixup(self.network(depth), seed=1)) for depth in (1, 12))
        assert 0.5 < deep / shallow < 2
        plain = [
            self.movement(self.network(depth, scalars=False), steps=1, lr=1e-4) for depth in (1, 12)
        ]
        # which He initialisation without norm does not achieve
        assert not 0.5 < plain[1] / plain[0] < 2

    def test_frozen_parameters_stay(self):
        model = self.network(1)
        model.layer1.requires_grad_(False)
        model.fc.requires_grad_(False)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        fixup(model)
        changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        assert "layer2.0.conv1.weight" in changed
        assert not any(name.startswith(("layer1.", "fc.")) for name in changed)

    def test_a_head_without_bias_starts_at_zero(self):
        model = self.network(1)
        model.fc = nn.Linear(512, 10, bias=False)
        assert not fixup(model).fc.weight.any()

    def test_computed_weights_are_refused(self):
        model = self.network(1)
        parametrizations.weight_norm(model.layer1[0].conv2)
        with pytest.raises(ConfigError, match=r"computed from layer1\.0\.conv2\.parametrizations"):
            fixup(model)

    def test_batch_norm_and_other_networks_are_refused(self):
        with pytest.raises(ConfigError, match="without_norm"):
            fixup(ResNet(BasicBlock, [1, 1, 1, 1]))
        with pytest.raises(ConfigError, match="Sequential has none"):
            fixup(nn.Sequential(nn.Linear(2, 2)))


class TestGradInit:
    CONFIG = GradInitConfig(iterations=30, lr=0.1, batch_size=32, gamma=5.0, scale_lr=0.03)

    @staticmethod
    def network():
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(392, 10),
        )
        with torch.no_grad():
            model[2].weight.mul_(3)  # badly scaled on purpose
        return model

    def test_the_first_step_lowers_the_loss_more_than_from_the_old_scales(self, digits):
        def loss_after_a_step(model):
            x, y = next(digits.batches(128, seed=77))
            loss = functional.cross_entropy(model(x), y)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter.sub_(0.1 * gradient)
                return float(functional.cross_entropy(model(x), y)), float(loss)

        model = self.network()
        scaled = deepcopy(model)
        history = gradinit(scaled, digits, self.CONFIG, seed=0)
        assert len(history) == 30
        after, before = loss_after_a_step(deepcopy(scaled))
        assert after < before  # the claim
        assert after < loss_after_a_step(model)[0]

    def test_tensors_are_scaled_as_a_whole_and_gradients_meet_the_bound(self, digits):
        model = self.network()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        gradinit(
            model, digits, self.CONFIG.model_copy(update={"gamma": 0.5, "iterations": 60}), seed=0
        )
        for new, old in zip(model.parameters(), before, strict=True):
            ratio = new.detach() / old
            torch.testing.assert_close(
                ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-3, atol=1e-4
            )
            assert float(ratio.flatten()[0]) > 0
        x, y = next(digits.batches(32, seed=5))
        functional.cross_entropy(model(x), y).backward()
        norm = (
            torch.stack([parameter.grad.square().sum() for parameter in model.parameters()])
            .sum()
            .sqrt()
        )
        assert float(norm) < 0.75  # 0.5 on the batches it saw


class TestNIO:
    def test_gradient_cosine_is_the_mean_over_pairs(self):
        one, other = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0])
        assert float(gradient_cosine(torch.stack([one, other]))) == pytest.approx(0, abs=1e-6)
        assert float(gradient_cosine(torch.stack([one, 5 * one]))) == pytest.approx(1)
        assert float(gradient_cosine(torch.stack([one, -one]))) == pytest.approx(-1)
        three = torch.randn(3, 50)
        pairs = [(0, 1), (0, 2), (1, 2)]
        expected = sum(functional.cosine_similarity(three[i], three[j], 0) for i, j in pairs) / 3
        assert float(gradient_cosine(three)) == pytest.approx(float(expected), abs=1e-5)

    @pytest.mark.parametrize(("factor", "gamma", "gain"), [(1, 5.0, 0.2), (3, 3.0, 0.0)])
    def test_it_raises_the_cosine_of_fresh_images_under_the_norm_bound(
        self, digits, factor, gamma, gain
    ):
        """What the method promises, on images that it has not seen: with room below the bound, and
        where norms have to fall by two fifths first.
        """

        def cosine_and_norm(model):
            rows = []
            for x, y in itertools.islice(digits.batches(32, seed=99), 12):
                loss = functional.cross_entropy(model(x), y)
                gradients = torch.autograd.grad(loss, list(model.parameters()))
                rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
            stacked = torch.stack(rows)
            return float(gradient_cosine(stacked)), float(stacked.norm(dim=1).mean())

        model = TestGradInit.network()
        with torch.no_grad():
            model[2].weight.mul_(factor)
        scaled = deepcopy(model)
        config = NIOConfig(iterations=80, scale_lr=0.05, gamma=gamma)
        history = nio(scaled, digits, config, seed=0)
        assert len(history) == config.iterations
        (before, norm_before), (after, norm_after) = map(cosine_and_norm, (model, scaled))
        assert (norm_before > 1.5 * gamma) == (factor == 3)
        assert norm_after < 1.15 * gamma
        assert after > before + gain
        for new, old in zip(scaled.parameters(), model.parameters(), strict=True):
            ratio = (new / old).detach().flatten()
            torch.testing.assert_close(ratio, ratio[0].expand_as(ratio), rtol=1e-3, atol=1e-4)

    def test_modes_and_running_statistics_stay_and_parts_overlap(self, digits):
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.LazyLinear(10)
        )
        model(next(digits.batches(4))[0])
        model[1].reset_running_stats()
        model[1].eval()
        nio(model, digits, NIOConfig(iterations=2, parts=3, overlap=0.5, batch_size=9))
        assert not model[1].running_mean.any()
        assert [module.training for module in model] == [True, False, True, True, True]
        assert parts(9, 3, 0.5) == [slice(0, 4), slice(2, 7), slice(5, 9)]
        assert parts(10, 3, 0.0) == [slice(0, 3), slice(3, 6), slice(6, 10)]


class Attentive(nn.Module):
    """Attention over the pixels of an image, and a head for training only."""

    def __init__(self):
        super().__init__()
        self.stem, self.attention = nn.Conv2d(3, 8, 4, stride=4), nn.MultiheadAttention(8, 2)
        self.head, self.auxiliary = nn.Linear(8, 10), nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x).flatten(2).permute(2, 0, 1)
        x = (x + self.attention(x, x, x, need_weights=False)[0]).mean(0)
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


class TestSecondDerivatives:
    """Of attention, and without parts that a network does not use."""

    @pytest.mark.parametrize(
        "changed",
        [
            lambda model, images: gradinit(model, images, GradInitConfig(iterations=2)),
            lambda model, images: nio(model, images, NIOConfig(iterations=2)),
            lambda model, _: metainit(model, (3, 32, 32), 10, MetaInitConfig(iterations=2)),
        ],
        ids=["gradinit", "nio", "metainit"],
    )
    def test_attention_learns_its_scales_and_what_is_not_used_stays(self, changed, digits):
        model = Attentive()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        history = changed(model, digits)
        assert any(math.isfinite(value) for value in history)
        change = {n: not torch.equal(p, before[n]) for n, p in model.named_parameters()}
        assert change["attention.in_proj_weight"]
        assert not change["auxiliary.weight"]

    def test_the_quotient_is_that_of_the_weights_that_are_used(self):
        one, other = (torch.tensor(values, requires_grad=True) for values in ([1.0, 2], [3.0]))
        quotients = [
            float(gradient_quotient((one**3).sum(), weights).detach())
            for weights in ([one], [one, other])
        ]
        assert quotients[0] == quotients[1]


class TestMetaInit:
    def test_quotient_of_a_quadratic_is_known(self):
        """L = sum(c w^2) / 2: g = c w and Hg = c^2 w, so that (g - Hg) / g - 1 = -c."""
        weight = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
        curvature = torch.tensor([0.5, 1.0, 3.0])
        quotient = gradient_quotient(
            (curvature * weight.square()).sum() / 2, [weight], epsilon=1e-12
        )
        assert float(quotient.detach()) == pytest.approx(curvature.mean().item(), rel=1e-5)

    def test_quotient_of_a_linear_loss_is_zero(self):
        weight = torch.tensor([1.0, -2.0], requires_grad=True)
        loss = (torch.tensor([3.0, 4.0]) * weight).sum() + 0 * weight.square().sum()
        quotient = gradient_quotient(loss, [weight], epsilon=1e-12)
        assert float(quotient.detach()) == pytest.approx(0, abs=1e-6)

    def test_it_lowers_the_quotient_and_keeps_directions(self):
        layers = [nn.Linear(48, 32), *(nn.Linear(32, 32) for _ in range(4)), nn.Linear(32, 10)]
        with torch.no_grad():
            for layer in layers:
                layer.weight.mul_(4)  # activations explode
        directions = [layer.weight.detach() / layer.weight.norm() for layer in layers]
        model = nn.Sequential(
            nn.Flatten(), *(part for layer in layers for part in (nn.ReLU(), layer))
        )
        history = metainit(
            model, (3, 4, 4), 10, MetaInitConfig(iterations=200, batch_size=128), seed=0
        )
        # a mean of quotients has a heavy tail
        assert median(history[-20:]) < 0.2 * median(history[:20])
        for layer, direction in zip(layers, directions, strict=True):
            torch.testing.assert_close(layer.weight.detach() / layer.weight.norm(), direction)

    def test_running_statistics_stay(self):
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
        )
        metainit(model, (3, 4, 4), 3, MetaInitConfig(iterations=2, batch_size=4))
        assert not model[1].running_mean.any()


METHODS = {
    "gradinit": lambda model, images: gradinit(model, images, GradInitConfig(iterations=1)),
    "nio": lambda model, images: nio(model, images, NIOConfig(iterations=1)),
    "metainit": lambda model, images: metainit(model, (3, 8, 8), 10, MetaInitConfig(iterations=1)),
}


@pytest.mark.parametrize("method", METHODS)
def test_each_module_keeps_its_mode_also_after_an_error(digits, method):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 10),
    ).train()  # fmt: skip
    model[1].eval()
    modes = [module.training for module in model.modules()]
    images = digits.subset(range(32))
    METHODS[method](model, images)
    assert [module.training for module in model.modules()] == modes
    model[4] = nn.Linear(5, 10)
    with pytest.raises(RuntimeError):
        METHODS[method](model, images)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_is_all_frozen_is_refused(digits, method):
    model = nn.Linear(3, 2).requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter to train"):
        METHODS[method](model, digits)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [lambda: nn.LazyLinear(2), lambda: nn.Linear(3, 2, device="meta")])
def test_a_network_without_shapes_or_values_is_refused(digits, method, make):
    with pytest.raises(ConfigError, match=r"weight (has no shape yet|is on the meta device)"):
        METHODS[method](make(), digits)


def test_a_network_whose_biases_alone_are_trainable_is_none_for_metainit(digits):
    model = nn.Linear(3, 2)
    model.weight.requires_grad_(False)
    with pytest.raises(ConfigError, match="no weight of two or more dimensions to train"):
        METHODS["metainit"](model, digits)


def test_a_grouped_transposed_convolution_has_an_orthogonal_matrix_per_group():
    layer = nn.ConvTranspose2d(8, 8, 2, groups=8)
    orthogonal(layer)
    for part in layer.weight.detach().chunk(8):
        torch.testing.assert_close(part.norm(), torch.tensor(1.0))


def test_weights_of_half_precision_are_made_orthogonal():
    half = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).to(torch.bfloat16)
    expected = deepcopy(half).float()
    assert orthogonalise(half) == orthogonalise(expected) == 1
    assert half[0].weight.dtype == torch.bfloat16
    torch.testing.assert_close(half[0].weight, expected[0].weight.to(torch.bfloat16))


def test_a_batch_norm_under_two_names_goes_under_both():
    model = nn.Module()
    model.one = model.two = nn.BatchNorm2d(3)
    without_norm(model)
    assert type(model.one).__name__ == type(model.two).__name__ == "ScaleAndShift"
