"""FixUp (Zhang et al., 2019): residual networks that train without normalisation (paper table 16).

The rules: (1) the classifier and the last layer of every residual branch start at zero; (2) the
other layers of a branch are scaled by L^(-1/(2m-2)), L the number of branches and m the layers in
one; (3) a scalar multiplier in every branch and a scalar bias before every layer and activation.
`without_norm` makes a residual network of torchvision fit for them: each batch norm becomes a
scalar multiplier and bias, which at their start, 1 and 0, do nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ghn.errors import ConfigError
from ghn.predict.parametrized import computed_weights


class ScaleAndShift(nn.Module):
    """A scalar multiplier and a scalar bias, in the place of a batch norm."""

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), device=device))
        self.shift = nn.Parameter(torch.zeros((), device=device))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """x * scale + shift."""
        return x_BCHW * self.scale + self.shift


def without_norm(model: nn.Module, *, scalars: bool = True) -> nn.Module:
    """Replaces every batch norm of `model` in place: by `ScaleAndShift`, or by nothing at all.

    Args:
        scalars: with False each norm becomes an identity, as for the other initialisations of table
            16.

    Returns:
        the model.
    """
    device = next((parameter.device for parameter in model.parameters()), None)
    for module in model.modules():
        for name, child in list(module._modules.items()):  # under all its names
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, ScaleAndShift(device) if scalars else nn.Identity())
    return model


@torch.no_grad()
def fixup(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Initialises a residual network without batch norm by the rules of FixUp, in place. Frozen
    parameters stay.

    With x + branch(x) in every block and branches that start at zero, the network is its stem,
    downsamplings and classifier at first; one step of SGD then changes its output by an amount that
    does not grow with its depth.

    Args:
        model: a `torchvision.models.ResNet` (any depth, width, groups) after `without_norm`.
        seed: of the Gaussian weights.

    Returns:
        the model.

    Raises:
        ConfigError: the model has batch norms, computed weights, or no residual blocks of the kinds
            of torchvision's ResNet.
    """
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise ConfigError(
            "FixUp is for networks without batch norm; call ghn.baselines.without_norm(model) first"
        )
    if computed := min(computed_weights(model), default=""):
        raise ConfigError(
            f"FixUp sets weights to zero, which one that is computed from {computed} may not be;"
            " take its parametrization away first"
        )
    from torchvision.models.resnet import BasicBlock, Bottleneck  # slow to import, and few need it

    blocks = [module for module in model.modules() if isinstance(module, BasicBlock | Bottleneck)]
    if not blocks:
        raise ConfigError(
            f"FixUp knows residual blocks of torchvision's ResNet; {type(model).__name__} has none"
        )
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            _he_normal(module, 1.0, generator)
    for block in blocks:
        branch = [
            block.conv1,
            block.conv2,
            *([block.conv3] if isinstance(block, Bottleneck) else []),
        ]
        scale = len(blocks) ** (-1 / (2 * len(branch) - 2))
        for layer in branch[:-1]:
            _he_normal(layer, scale, generator)
        _zero(branch[-1].weight)
    for module in reversed(list(model.modules())):
        if isinstance(module, nn.Linear):
            _zero(module.weight)
            _zero(module.bias)
            break
    return model


def _zero(parameter: Tensor | None) -> None:
    if parameter is not None and parameter.requires_grad:
        parameter.zero_()


def _he_normal(layer: nn.Conv2d, scale: float, generator: torch.Generator) -> None:
    """Gaussian of variance 2 / fan_out (as in the ResNets of torchvision), times `scale`; the bias
    is zero.
    """
    fan_out = layer.weight[:, 0].numel() / layer.groups
    noise = torch.randn(layer.weight.shape, generator=generator, device="cpu")
    if layer.weight.requires_grad:
        layer.weight.copy_(noise * (scale * math.sqrt(2 / fan_out)))
    _zero(layer.bias)
