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

from ghn.modes import modes_kept
from ghn.predict.writable import unwritable
from ghn.randomness import seeded

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
        own: what the names of these parameters, and of buffers, begin with in the module.
        inverse: from a value of the weight to those of the parameters behind it.
    """

    module: nn.Module
    name: str
    prefix: str
    behind: Mapping[str, nn.Parameter]
    own: str
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
        restore = self._remember()
        for key, value in self._values(weight).items():
            self.behind[key].copy_(value)
        if math.isfinite(difference := self._settle(weight)):
            return difference
        restore()
        raise NotInvertibleError("its parametrization gives numbers that are not finite")

    @torch.no_grad()
    def invert(self, weight: Tensor) -> tuple[dict[str, Tensor], float]:
        """What `write` would make of the network, which stays as it is.

        Returns:
            values of the parameters behind the weight, and of the buffers that go with them (those
            of power iterations, the base of an orthogonal weight), by their names in the network;
            and what `write` returns. Of a network that cannot be written (on the meta device) there
            are only buffers that the inverse sets anew, and no distance.

        Raises:
            NotInvertibleError: as `write`.
        """
        start = f"{self.prefix}." if self.prefix else ""
        if any(unwritable(parameter, kept=False) for parameter in self.behind.values()):
            buffers, known = self._buffers(), {id(buffer) for buffer in self.module.buffers()}
            try:
                values = self._values(weight)
                new = self.module.named_buffers()
                return values | {f"{start}{key}": b for key, b in new if id(b) not in known}, 0.0
            finally:
                _restore(buffers)
        restore = self._remember()
        difference = self.write(weight)
        try:
            return {
                f"{start}{key}": value.detach().clone()
                for key, value in self.module.state_dict(keep_vars=True).items()
                if f"{start}{key}" in self.behind
                or (key.startswith(self.own) and _is_floating_buffer(value))
            }, difference
        finally:
            restore()

    def _values(self, weight: Tensor) -> dict[str, Tensor]:
        """`inverse`, checked. It may set buffers, but not if it raises.

        What it draws (to complete an orthogonal weight) is the same each time, and leaves the
        global random state alone.
        """
        buffers = self._buffers()
        try:
            with seeded(0):
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

    def _remember(self) -> Callable[[], None]:
        """Returns what gives parameters, buffers and the weight that a hook has left the values
        that they have now, whether they are written or replaced meanwhile.
        """
        buffers = self._buffers()
        held = [buffer for _, own in buffers for buffer in own.values() if buffer is not None]
        values = [(tensor, tensor.clone()) for tensor in [*self.behind.values(), *held]]
        left = {key: weight for key, weight in vars(self.module).items() if key == self.name}

        def restore() -> None:
            _restore(buffers)
            for tensor, value in values:
                tensor.copy_(value)
            vars(self.module).update(left)

        return restore

    def _settle(self, wanted: Tensor) -> float:
        """Has power iterations look at the parameters' values; returns how far the weight is from
        `wanted`, relative to its norm.
        """
        with modes_kept(self.module):
            self.module.train()
            for _ in range(POWER_ITERATIONS):
                self._compute()
            self.module.eval()
            found = self._compute()
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


def _is_floating_buffer(value: Any) -> bool:
    is_parameter = isinstance(value, nn.Parameter)
    return isinstance(value, Tensor) and value.is_floating_point() and not is_parameter


def computed_weights(model: nn.Module) -> dict[str, Computed]:
    """The computed weights of a network, by the name of each parameter behind them."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found: dict[str, Computed] = {}

    def add(
        owner: str,
        name: str,
        behind: list[str],
        own: str,
        inverse: Callable[[Tensor], dict[str, Tensor]],
    ) -> None:
        values = {key: parameters[key] for key in behind}
        computed = Computed(model.get_submodule(owner), name, owner, values, own, inverse)
        found.update(dict.fromkeys(behind, computed))

    for prefix, module in model.named_modules():
        start = f"{prefix}." if prefix else ""
        if isinstance(module, ParametrizationList):
            owner, _, name = prefix.rpartition(".parametrizations.")
            owner = owner if name else ""
            name = name or prefix.removeprefix("parametrizations.")
            behind = [f"{start}{key}" for key, _ in module.named_parameters(recurse=False)]
            own = f"parametrizations.{name}."
            add(owner, name, behind, own, _inverse_of_list(module, start))
        for hook in module._forward_pre_hooks.values():
            own = f"{getattr(hook, 'name', '')}_"
            if isinstance(hook, WeightNorm):
                behind = [f"{start}{hook.name}_{suffix}" for suffix in ("g", "v")]
                add(prefix, hook.name, behind, own, _inverse_of_norm(hook, start))
            elif isinstance(hook, SpectralNorm):
                behind = [f"{start}{hook.name}_orig"]
                add(prefix, hook.name, behind, own, _inverse_of_spectral_norm(hook, start))
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
