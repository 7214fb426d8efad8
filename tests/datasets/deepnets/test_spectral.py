"""Convolutions in the frequency domain against PyTorch's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d

from datasets.deepnets.networks.cpu.spectral import convolve
from datasets.deepnets.networks.layers import DenseConv2d


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 12), st.integers(1, 12),
    st.sampled_from([1, 3, 5, 7]),
)  # fmt: skip
def test_values_and_gradients_are_those_of_the_plain_convolution(b, c, o, height, width, kernel):
    torch.manual_seed(0)
    x = torch.randn(b, c, height, width, dtype=torch.float64, requires_grad=True)
    w = torch.randn(o, c, kernel, kernel, dtype=torch.float64, requires_grad=True)
    found, expected = convolve(x, w), conv2d(x, w, padding=kernel // 2)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, (x, w), upstream),
        torch.autograd.grad(expected, (x, w), upstream),
    )


def test_second_derivatives():
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(convolve, (x, w))


@pytest.mark.parametrize(("kernel", "size"), [(5, 32), (7, 11), (7, 4)])
def test_single_precision_is_as_exact_as_the_plain_convolution(kernel, size):
    torch.manual_seed(0)
    x, w = torch.randn(8, 32, size, size), torch.randn(48, 32, kernel, kernel)
    exact = conv2d(x.double(), w.double(), padding=kernel // 2)
    error = [
        float((y - exact).norm() / exact.norm())
        for y in (convolve(x, w), conv2d(x, w, padding=kernel // 2))
    ]
    assert error[0] < 2e-6
    assert error[0] < 20 * error[1]


def test_the_layer_takes_it_for_large_kernels_only(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "datasets.deepnets.networks.cpu.spectral.convolve",
        lambda x, w: seen.append(tuple(w.shape)) or x,
    )
    for kernel, stride in ((3, 1), (5, 1), (7, 1), (7, 2)):
        DenseConv2d(16, 16, kernel, stride, kernel // 2)(torch.randn(8, 16, 8, 8))
    assert seen == [(16, 16, 5, 5), (16, 16, 7, 7)]


def test_matrices_made_without_gradients_serve_with_them():
    x, w = torch.randn(8, 16, 9, 13), torch.randn(16, 16, 5, 5, requires_grad=True)
    with torch.inference_mode():
        convolve(x, w)
    convolve(x, w).sum().backward()
    assert w.grad is not None
