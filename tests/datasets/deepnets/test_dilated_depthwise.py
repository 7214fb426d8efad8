import pytest
import torch

from datasets.deepnets.layers import DilatedDepthwise


@pytest.mark.parametrize("size", [16, 11])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_fast_path_is_the_plain_convolution(size: int, kernel: int, stride: int) -> None:
    layer = DilatedDepthwise(8, 8, kernel, stride, kernel - 1, 2, 8, None).double()
    images = torch.randn(2, 8, size, size, dtype=torch.float64, requires_grad=True)
    out = layer(images)
    plain = torch.nn.functional.conv2d(images, layer.weight, None, stride, kernel - 1, 2, 8)
    torch.testing.assert_close(out, plain)
    with torch.no_grad():
        torch.testing.assert_close(layer(images), plain)
    found = torch.autograd.grad(out.square().sum(), (images, layer.weight))
    expected = torch.autograd.grad(plain.square().sum(), (images, layer.weight))
    torch.testing.assert_close(found, expected)
