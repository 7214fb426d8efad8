import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from ghn.finetune import break_symmetry, correlation_std


@given(
    shape=st.tuples(st.integers(2, 12), st.integers(1, 12), st.sampled_from([(), (3, 3), (1, 7)])),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_correlation_std_is_that_of_the_explicit_matrix(shape, seed):
    out_channels, in_channels, kernel = shape
    weight = torch.randn(
        out_channels, in_channels, *kernel, generator=torch.Generator().manual_seed(seed)
    )
    matrix = weight.reshape(out_channels, -1)
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    if matrix.shape[1] < 2:
        assert correlation_std(weight) == 0.0  # a single column has no correlations
        return
    expected = torch.corrcoef(matrix.double()).flatten().std()
    assert correlation_std(weight) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)


def test_tiled_channels_get_noise_and_part():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.copy_(
            model[0].weight[:1].expand(4, -1, -1, -1)
            * torch.tensor([1.0, -1, 1, -1]).view(4, 1, 1, 1)
        )
    before = [parameter.detach().clone() for parameter in model.parameters()]
    assert break_symmetry(model, 1e-3, seed=1) == 1
    change = [
        (new - old).abs().max().item() for new, old in zip(model.parameters(), before, strict=True)
    ]
    assert 0 < change[0] < 1e-2
    assert change[1:] == [0.0] * 5  # biases, norms and the classifier stay
    assert not torch.equal(model[0].weight[0], model[0].weight[2])


def test_no_noise_without_beta_and_the_seed_decides():
    def noisy(beta, seed):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 2))
        break_symmetry(model, beta, seed=seed)
        return model[0].weight

    assert torch.equal(noisy(0, 1), noisy(0, 2))
    assert torch.equal(noisy(0.1, 1), noisy(0.1, 1))
    assert not torch.equal(noisy(0.1, 1), noisy(0.1, 2))


def test_constant_rows_are_no_division_by_zero():
    assert correlation_std(torch.ones(4, 4)) == 0.0


def test_tied_weights_get_noise_once_and_attention_gets_it():
    class Tied(nn.Module):
        def __init__(self, tied):
            super().__init__()
            torch.manual_seed(0)
            self.one = nn.Linear(4, 4)
            self.attention = nn.MultiheadAttention(4, 2)
            self.other = nn.Linear(4, 4)
            self.head = nn.Linear(4, 2)
            if tied:
                self.other.weight = self.one.weight

    def change(model):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        count = break_symmetry(model, 0.1, seed=3)
        return count, {n: p.detach() - before[n] for n, p in model.named_parameters()}

    count, free = change(Tied(False))
    tied_count, tied = change(Tied(True))
    assert (count, tied_count) == (4, 3)
    torch.testing.assert_close(tied["one.weight"], free["one.weight"])
    assert free["attention.in_proj_weight"].any()
    assert free["attention.out_proj.weight"].any()
    assert not free["head.weight"].any()


def test_a_classifier_tied_to_an_embedding_stays():
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6, bias=False))
    model[2].weight = model[0].weight
    before = model[0].weight.detach().clone()
    assert break_symmetry(model, 0.1) == 1
    assert torch.equal(model[0].weight, before)


def tiled():
    """Linear layers whose eight rows are the same twice."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    with torch.no_grad():
        for layer in model[:2]:
            layer.weight.copy_(layer.weight[:4].repeat(2, 1))
    return model


def used(model):
    """The first layer's weight as its forward pass uses it."""
    model.eval()(torch.zeros(1, 6))
    return model[0].weight.detach().clone()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "compute", [parametrizations.weight_norm, nn.utils.weight_norm, parametrizations.spectral_norm]
)
def test_computed_weights_get_their_noise(compute):
    plain, model = tiled(), tiled()
    compute(model[0])
    before = used(model)
    torch.testing.assert_close(before[:4], before[4:])
    assert break_symmetry(plain, 1e-2) == break_symmetry(model, 1e-2) == 2
    after = used(model)
    assert ((after[:4] - after[4:]).norm(dim=1) > 1e-4).all()
    if compute is not parametrizations.spectral_norm:
        torch.testing.assert_close(after, plain[0].weight.detach())


class OneWay(nn.Module):
    def forward(self, raw):
        return raw.abs()


def frozen_scale(layer):
    parametrizations.weight_norm(layer).parametrizations.weight.original0.requires_grad_(False)


def a_buffer(layer):
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: parametrize.register_parametrization(layer, "weight", OneWay()),
        lambda layer: prune.random_unstructured(layer, "weight", 0.5),
        frozen_scale,
        a_buffer,
    ],
    ids=["no inverse", "pruned", "frozen", "buffer"],
)
def test_weights_that_cannot_be_written_or_trained_stay_and_do_not_count(change):
    model = tiled()
    change(model[0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert break_symmetry(model, 1e-2) == 1
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"1.weight"}


def test_rows_of_padding_stay_zero_and_all_else_gets_the_same_noise():
    """Also where the output layer, or another embedding, shares the weight."""

    def noisy(padding_idx):
        torch.manual_seed(0)
        model = nn.ModuleDict({
            "tokens": nn.Embedding(9, 4, padding_idx=padding_idx),
            "tied": nn.Linear(4, 9, bias=False),
            "hidden": nn.Linear(4, 6),
            "head": nn.Linear(6, 2),
        })  # fmt: skip
        model["tied"].weight = model["tokens"].weight
        with torch.no_grad():
            model["tokens"].weight[3] = 0
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        assert break_symmetry(model, 1e-2) == 2
        return before, dict(model.named_parameters())

    before, after = noisy(3)
    _, everywhere = noisy(None)
    changed = (after["tokens.weight"] != before["tokens.weight"]).any(1)
    assert changed.tolist() == [row != 3 for row in range(9)]
    assert torch.equal(after["tokens.weight"][changed], everywhere["tokens.weight"][changed])
    assert torch.equal(after["hidden.weight"], everywhere["hidden.weight"])
