"""Weights that a network computes from other parameters: parametrizations of PyTorch, old and new.

A graph names the parameter that a computed weight stands for (`...weight.original1` of
`weight_norm`); what a hypernetwork predicts is the weight itself. Here the prediction is turned
into values of the parameters behind it, by `right_inverse`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

POWER_ITERATIONS = 15
"""As many as PyTorch takes when a spectral norm is put on a weight."""


class NotInvertibleError(Exception):
    """A weight that no values of the parameters behind it give; the message says why."""


@dataclass(frozen=True)
class Computed:
    """A weight that a network computes.

    Attributes:
        module: that has it.
        name: of its attribute.
        prefix: of the module in the network.
        behind: the parameters that it is computed from, by their names in the network.
        inverse: from a value of the weight to those of the parameters behind it.
    """

    module: nn.Module
    name: str
    prefix: str
    behind: Mapping[str, nn.Parameter]
    inverse: Callable[[Tensor], dict[str, Tensor]]

    @torch.no_grad()
    def write(self, weight: Tensor) -> float:
        """Gives the weight a value by way of the parameters behind it, in place.

        Returns:
            how far the weight is from that value, relative to its norm, as the parametrization
            demands.

        Raises:
            NotInvertibleError: there are no such values of the parameters, or the weight is not
                finite with them (weight norm knows none of zeros); the network is as before.
        """
        buffers = self._buffers()
        values = self._values(weight)
        before = {key: parameter.clone() for key, parameter in self.behind.items()}
        for key, value in values.items():
            self.behind[key].copy_(value)
        if math.isfinite(difference := self._settle(weight)):
            return difference
        for key, value in before.items():
            self.behind[key].copy_(value)
        _restore(buffers)
        self._settle(weight)
        raise NotInvertibleError("its parametrization gives numbers that are not finite")

    def invert(self, weight: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Values of the parameters behind the weight that give it a value, and the buffers that go
        with them (an orthogonal weight has one), by their names in the network, which stays as it
        is.

        Raises:
            NotInvertibleError: there are none.
        """
        buffers = self._buffers()
        known = {id(buffer) for buffer in self.module.buffers()}
        start = f"{self.prefix}." if self.prefix else ""
        try:
            values = self._values(weight)
            new = self.module.named_buffers()
            return values, {f"{start}{key}": b for key, b in new if id(b) not in known}
        finally:
            _restore(buffers)

    def _values(self, weight: Tensor) -> dict[str, Tensor]:
        """`inverse`, checked. It may set buffers, but not if it raises.

        What it draws (to complete an orthogonal weight) is the same each time, and leaves the
        global random state alone.
        """
        buffers = self._buffers()
        devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
        try:
            with torch.random.fork_rng(devices):
                torch.manual_seed(0)
                values = self.inverse(weight)
        except Exception as error:  # a parametrization is any code
            _restore(buffers)
            raise NotInvertibleError(f"its parametrization cannot be inverted: {error}") from error
        if {key: value.shape for key, value in values.items()} != {
            key: parameter.shape for key, parameter in self.behind.items()
        }:
            _restore(buffers)
            raise NotInvertibleError("its parametrization gives other shapes than it has")
        return values

    def _buffers(self) -> list[tuple[nn.Module, dict[str, Tensor | None]]]:
        return [(module, dict(module._buffers)) for module in self.module.modules()]

    def _settle(self, wanted: Tensor) -> float:
        """Has power iterations look at the parameters' values; returns how far the weight is from
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


def _restore(buffers: list[tuple[nn.Module, dict[str, Tensor | None]]]) -> None:
    for module, before in buffers:
        module._buffers.update(before)


def computed_weights(model: nn.Module) -> dict[str, Computed]:
    """The computed weights of a network, by the name of each parameter behind them."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found: dict[str, Computed] = {}

    def add(
        owner: str, name: str, behind: list[str], inverse: Callable[[Tensor], dict[str, Tensor]]
    ) -> None:
        values = {key: parameters[key] for key in behind}
        computed = Computed(model.get_submodule(owner), name, owner, values, inverse)
        found.update(dict.fromkeys(behind, computed))

    for prefix, module in model.named_modules():
        start = f"{prefix}." if prefix else ""
        if isinstance(module, ParametrizationList):
            owner, _, name = prefix.rpartition(".parametrizations.")
            owner = owner if name else ""
            name = name or prefix.removeprefix("parametrizations.")
            behind = [f"{start}{key}" for key, _ in module.named_parameters(recurse=False)]
            add(owner, name, behind, _inverse_of_list(module, start))
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                behind = [f"{start}{hook.name}_{suffix}" for suffix in ("g", "v")]
                add(prefix, hook.name, behind, _inverse_of_norm(hook, start))
            elif isinstance(hook, SpectralNorm):
                behind = [f"{start}{hook.name}_orig"]
                add(prefix, hook.name, behind, _inverse_of_spectral_norm(hook, start))
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
