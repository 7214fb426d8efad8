"""A learnable scale per parameter tensor, which GradInit and NIO optimise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from ghn.failures import require_trainable
from ghn.outputs import heads


class Scales:
    """The parameters w_i of a network times scales a_i, which start at 1 and are learned by Adam.

    The network itself stays as it is until `apply`; its buffers (running statistics) stay for good.

    Attributes:
        base: the network's trainable parameters, by name.
        scales: a scalar tensor for each.
    """

    def __init__(self, model: nn.Module, *, lr: float, clip: float, least: float) -> None:
        """Puts a scale beside each trainable parameter of `model`.

        Args:
            model: the network.
            lr: learning rate of Adam.
            clip: largest norm of the scales' gradient.
            least: the smallest scale.

        Raises:
            ConfigError: all parameters are frozen, or one has no shape or no values.
        """
        require_trainable(model)
        self.model = model
        self.clip = clip
        self.least = least
        device = next(model.parameters()).device
        self.base = {
            name: parameter.detach()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        self.scales = {
            name: torch.ones((), device=device, requires_grad=True) for name in self.base
        }
        self._buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        self._adam = torch.optim.Adam(list(self.scales.values()), lr=lr)

    def parameters(self) -> dict[str, Tensor]:
        """The scaled parameters, differentiable with respect to the scales."""
        return {name: self.base[name] * self.scales[name] for name in self.base}

    def loss(
        self,
        parameters: Mapping[str, Tensor],
        x_BCHW: Tensor,
        y_B: Tensor,
        reduction: Literal["mean", "none"] = "mean",
    ) -> Tensor:
        """Cross-entropy of the network with `parameters`: a scalar, or (B,) without reduction. It
        has second derivatives, of attention too.
        """
        with sdpa_kernel(SDPBackend.MATH):
            output = functional_call(self.model, (dict(parameters), dict(self._buffers)), (x_BCHW,))
        return functional.cross_entropy(heads(output)[0], y_B, reduction=reduction)

    def step(self, objective: Tensor) -> None:
        """Moves the scales so that `objective` falls."""
        self._adam.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(list(self.scales.values()), self.clip)
        self._adam.step()
        with torch.no_grad():
            for scale in self.scales.values():
                scale.clamp_(min=self.least)

    @torch.no_grad()
    def apply(self) -> None:
        """Multiplies the network's parameters by their scales, in place."""
        for name, parameter in self.model.named_parameters():
            if name in self.scales:
                parameter.mul_(self.scales[name])


def gradients_of(loss: Tensor, parameters: Mapping[str, Tensor]) -> list[Tensor]:
    """Gradients that can be differentiated again; zeros for parameters that play no part."""
    found = torch.autograd.grad(
        loss, list(parameters.values()), create_graph=True, allow_unused=True
    )
    return [
        torch.zeros_like(p) if g is None else g
        for p, g in zip(parameters.values(), found, strict=True)
    ]
