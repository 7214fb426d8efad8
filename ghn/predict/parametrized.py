"""Weights that a network computes from other parameters: parametrizations of PyTorch, old and new.

A graph names the parameter that a computed weight stands for (`...weight.original1` of
`weight_norm`); what a hypernetwork predicts is the weight itself. Here the prediction is turned
into values of the parameters behind it, by `right_inverse`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

POWER_ITERATIONS = 15
"""As many as PyTorch takes when a spectral norm is put on a weight."""


@dataclass(frozen=True)
class Computed:
    """A weight that a network computes.

    Attributes:
        module: that has it.
        name: of its attribute.
        prefix: of the module in the network.
        inverse: from a value of the weight to those of the parameters behind it, by their names in
            the network.
    """

    module: nn.Module
    name: str
    prefix: str
    inverse: Callable[[Tensor], dict[str, Tensor]]

    def invert(self, weight: Tensor, aside: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """`inverse`, and the buffers that it set (an orthogonal weight has one) if it is to be done
        `aside`, without a change of the network.

        What it draws (to complete an orthogonal weight) is the same each time, and leaves the
        global random state alone.
        """
        modules = list(self.module.modules()) if aside else []
        before = [dict(module._buffers) for module in modules]
        known = {id(buffer) for buffer in self.module.buffers()}
        start = f"{self.prefix}." if self.prefix else ""
        devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
        try:
            with torch.random.fork_rng(devices):
                torch.manual_seed(0)
                values = self.inverse(weight)
            new = self.module.named_buffers()
            return values, {f"{start}{key}": b for key, b in new if id(b) not in known}
        finally:
            for module, buffers in zip(modules, before, strict=True):
                module._buffers.update(buffers)

    def settle(self, wanted: Tensor) -> float:
        """Has power iterations look at the new values; returns how far the weight is from
        `wanted`, relative to its norm.
        """
        modes = {module: module.training for module in self.module.modules()}
        try:
            self.module.train()
            for _ in range(POWER_ITERATIONS):
                self._compute()
            self.module.eval()
            found = self._compute()
        finally:
            for module, mode in modes.items():
                module.training = mode
        return float((found - wanted).norm() / wanted.norm().clamp(min=1e-12))

    def _compute(self) -> Tensor:
        for hook in self.module._forward_pre_hooks.values():
            if isinstance(hook, (WeightNorm, SpectralNorm)) and hook.name == self.name:
                hook(self.module, ())
        weight: Tensor = getattr(self.module, self.name).detach()
        return weight


def computed_weights(model: nn.Module) -> dict[str, Computed]:
    """The computed weights of a network, by the name of each parameter behind them."""
    found: dict[str, Computed] = {}
    for prefix, module in model.named_modules():
        start = f"{prefix}." if prefix else ""
        if isinstance(module, ParametrizationList):
            owner, _, name = prefix.rpartition(".parametrizations.")
            owner = owner if name else ""
            name = name or prefix.removeprefix("parametrizations.")
            computed = Computed(
                model.get_submodule(owner), name, owner, _inverse_of_list(module, start)
            )
            found |= {
                f"{start}{key}": computed for key, _ in module.named_parameters(recurse=False)
            }
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                inverse, behind = _inverse_of_norm(hook, start), ["g", "v"]
            elif isinstance(hook, SpectralNorm):
                inverse, behind = _inverse_of_spectral_norm(hook, start), ["orig"]
            else:
                continue
            computed = Computed(module, hook.name, prefix, inverse)
            found |= {f"{start}{hook.name}_{suffix}": computed for suffix in behind}
    return found


def _inverse_of_list(
    parametrizations: ParametrizationList, start: str
) -> Callable[[Tensor], dict[str, Tensor]]:
    def inverse(weight: Tensor) -> dict[str, Tensor]:
        value: Tensor | tuple[Tensor, ...] = weight
        for parametrization in reversed(parametrizations):
            invert: Callable[[Any], Any] = parametrization.right_inverse  # type: ignore[assignment]
            value = invert(value)
        if isinstance(value, Tensor):
            return {f"{start}original": value}
        return {f"{start}original{i}": part for i, part in enumerate(value)}

    return inverse


def _inverse_of_norm(hook: WeightNorm, start: str) -> Callable[[Tensor], dict[str, Tensor]]:
    def inverse(weight: Tensor) -> dict[str, Tensor]:
        norm = torch.norm_except_dim(weight, 2, hook.dim)
        return {f"{start}{hook.name}_g": norm, f"{start}{hook.name}_v": weight}

    return inverse


def _inverse_of_spectral_norm(
    hook: SpectralNorm, start: str
) -> Callable[[Tensor], dict[str, Tensor]]:
    return lambda weight: {f"{start}{hook.name}_orig": weight}
