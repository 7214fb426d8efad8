"""Depthwise convolutions, batch norm and attention as training on a CPU computes them, against the
plain ones.
"""

import pytest
import torch
from torch.nn import functional as F

from datasets.deepnets.networks import layers
from datasets.deepnets.networks.cpu.attention import attend


@pytest.mark.parametrize("size", [16, 11, 4, 1])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_depthwise(size: int, kernel: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    layer = layers.Depthwise(8, kernel, stride, dilation)
    images = torch.randn(2, 8, size, size, requires_grad=True)
    out = layer(images)
    plain = F.conv2d(images, layer.weight, None, stride, kernel // 2 * dilation, dilation, 8)
    torch.testing.assert_close(out, plain)
    with torch.no_grad():
        torch.testing.assert_close(layer(images), plain)
    found = torch.autograd.grad(out.square().sum(), (images, layer.weight))
    expected = torch.autograd.grad(plain.square().sum(), (images, layer.weight))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("tokens", "channels"), [(121, 32), (16, 48), (1, 8)])
def test_attention(tokens: int, channels: int) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(3, tokens, 3, 8, channels // 8, dtype=torch.float64, requires_grad=True)
    out = attend(qkv)
    plain = (
        F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        .transpose(1, 2)
        .reshape(3, tokens, channels)
    )
    torch.testing.assert_close(out, plain)
    upstream = torch.randn_like(plain)
    torch.testing.assert_close(
        torch.autograd.grad(out, qkv, upstream), torch.autograd.grad(plain, qkv, upstream)
    )


def test_gradients_of_attention_have_gradients() -> None:
    """GradInit and MetaInit differentiate them."""
    torch.manual_seed(0)
    qkv = torch.randn(2, 5, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(attend, (qkv,))


def test_batch_norm_of_slices_and_averages() -> None:
    torch.manual_seed(0)
    norm = layers.BatchNorm2d(4)
    images = torch.randn(3, 4, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    leaves = (images, norm.weight, norm.bias)

    def loss(out: torch.Tensor) -> torch.Tensor:
        return torch.cat((out, out.square()), 1).pow(3).mean(dim=(2, 3)).sum()

    found = torch.autograd.grad(loss(norm(images)), leaves)
    plain = F.batch_norm(images, None, None, norm.weight, norm.bias, True)
    torch.testing.assert_close(
        found, torch.autograd.grad(loss(plain), leaves), rtol=1e-4, atol=1e-5
    )
