"""Recomputed activations: the same loss and gradient, with less kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from train_setting import make_batch

from ghn.train.functional import placed
from ghn.train.recompute import recomputed


def _step(
    network: nn.Module, given: dict[str, Tensor], x_BCHW: Tensor, enabled: bool
) -> tuple[Tensor, tuple[Tensor, ...], int]:
    """Output, gradients, and numbers kept between forward and backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not any(tensor.data_ptr() == leaf.data_ptr() for leaf in given.values()):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(0)
    with placed(network, given), recomputed(network, enabled):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = network(x_BCHW)
        n_kept = sum(kept.values())
        return out, torch.autograd.grad(out.square().sum(), list(given.values())), n_kept


@pytest.mark.parametrize("name", ["0", "1", "2", "resnet18", "vit_b_16"])
def test_the_gradient_is_the_same_with_less_kept(name: str) -> None:
    torch.manual_seed(1)
    if name.isdigit():
        network = make_batch([int(name)], channels=32).networks[0]
    else:
        size = {"image_size": 32, "patch_size": 8} if name == "vit_b_16" else {}
        network = (models.VisionTransformer(
            num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, dropout=0.1, **size)
            if size else models.get_model(name, num_classes=10))  # fmt: skip
    given = {
        name: (torch.randn(p.shape) * 0.1).requires_grad_()
        for name, p in network.named_parameters()
    }
    x_BCHW = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    out, gradients, kept = _step(network, given, x_BCHW, False)
    again, others, fewer = _step(network, given, x_BCHW, True)
    assert torch.equal(again, out)
    assert all(torch.equal(a, b) for a, b in zip(others, gradients, strict=True))
    assert fewer < 0.7 * kept
    assert not any("forward" in vars(module) for module in network.modules())
    assert _step(network, given, x_BCHW, False)[2] == kept


def test_a_block_in_two_places_is_wrapped_once() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)

        def forward(self, x_BCHW: Tensor) -> Tensor:
            out: Tensor = self.layer(x_BCHW).relu()
            return out

    torch.manual_seed(1)
    block = Block()
    network = nn.Sequential(block, nn.Sequential(nn.ReLU(), block))
    given = {name: p.detach().requires_grad_() for name, p in block.named_parameters(prefix="0")}
    x_BCHW = torch.randn(2, 3, 4, 4)
    out, gradients, _ = _step(network, given, x_BCHW, False)
    again, others, _ = _step(network, given, x_BCHW, True)
    assert torch.equal(out, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))
    assert "forward" not in vars(block)
