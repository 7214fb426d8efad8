"""Weights of layers as their forward pass uses them: parameters, or computed from parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ghn.predict.parametrized import NotInvertibleError, computed_weights


class LayerWeights:
    """Writes weights and biases of a network's layers, also those that are computed (weight norm
    and other parametrizations), of which the attribute is a temporary.
    """

    def __init__(self, model: nn.Module) -> None:
        self._computed = {
            (id(computed.module), computed.name): computed
            for computed in computed_weights(model).values()
        }

    def trains(self, layer: nn.Module, name: str) -> bool:
        """Whether the weight called `name` is trained: it is a parameter or computed from
        parameters, none of them frozen (`requires_grad` off).
        """
        computed = self._computed.get((id(layer), name))
        behind = [getattr(layer, name)] if computed is None else computed.behind.values()
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
            computed.write(value)
        except NotInvertibleError:
            return False
        return True


def padding_rows(model: nn.Module) -> dict[int, int]:
    """The rows of padding of a network's embeddings, which get no gradient, by the identities of
    their weights.
    """
    return {
        id(module.weight): index
        for module in model.modules()
        if isinstance(index := getattr(module, "padding_idx", None), int)
        and isinstance(getattr(module, "weight", None), Tensor)
    }
