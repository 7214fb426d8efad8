"""Weights of layers as their forward pass uses them: parameters, or computed from parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ghn.predict.parametrized import Computed, computed_weights


class LayerWeights:
    """Writes weights and biases of a network's layers, also those that are computed (weight norm
    and other parametrizations), of which the attribute is a temporary.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        self._computed: dict[tuple[int, str], Computed] = {}
        self._behind: dict[tuple[int, str], list[Tensor]] = {}
        for name, computed in computed_weights(model).items():
            key = id(computed.module), computed.name
            self._computed[key] = computed
            self._behind.setdefault(key, []).append(self._parameters[name])

    def trains(self, layer: nn.Module, name: str) -> bool:
        """Whether the weight called `name` is trained: it is a parameter or computed from
        parameters, none of them frozen (`requires_grad` off).
        """
        behind = self._behind.get((id(layer), name)) or [getattr(layer, name)]
        return all(isinstance(p, nn.Parameter) and p.requires_grad for p in behind)

    @torch.no_grad()
    def write(self, layer: nn.Module, name: str, value: Tensor) -> bool:
        """Gives the weight called `name` a value, in place, if it `trains`.

        Returns:
            False if it keeps its value: it is not trained, or its parametrization has no inverse
            there.
        """
        if not self.trains(layer, name):
            return False
        computed = self._computed.get((id(layer), name))
        if computed is None:
            getattr(layer, name).copy_(value)
            return True
        try:
            values, _ = computed.invert(value, aside=False)
        except Exception:  # a parametrization is any code
            return False
        if any(self._parameters[key].shape != new.shape for key, new in values.items()):
            return False
        before = {key: self._parameters[key].clone() for key in values}
        for key, new in values.items():
            self._parameters[key].copy_(new)
        if math.isfinite(computed.settle(value)):
            return True
        for key, old in before.items():  # weight norm knows no weight of zeros
            self._parameters[key].copy_(old)
        computed.settle(value)
        return False
