"""Predicted parameters as networks take them, and the gradients that come back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ghn.models.prediction import Prediction


class Leaves:
    """Predicted parameters cut off from the hypernetwork, and room for the gradients that networks
    send back, stacked as they were predicted: parameters of one shape share the calls of cutting
    off and sending back, of which there would be several for each.

    Attributes:
        outputs: the stacks of the hypernetwork.
        gradients: of each stack; complete when all networks have `sent`.
        of_network: for each network its parameters by name.
        returned: for each network the parts of `gradients` that are of its parameters, by name.
    """

    def __init__(self, prediction: Prediction) -> None:
        self.outputs = [stack.tensor for stack in prediction.stacks]
        values = [_as_used(tensor.detach()) for tensor in self.outputs]
        self.gradients = [torch.empty_like(tensor) for tensor in values]
        self.of_network = prediction.by_network([tensor.unbind(0) for tensor in values])
        self.returned = prediction.by_network([tensor.unbind(0) for tensor in self.gradients])
        for parameters in self.of_network:
            for leaf in parameters.values():
                leaf.requires_grad_()

    def sent(
        self, network: int, gradients: Sequence[Tensor | None], limit: float | None, factor: float
    ) -> Tensor | None:
        """Takes in the gradients of a network's parameters, all of them, scaled down to norm
        `limit` if theirs is larger; an unused parameter has none.

        Args:
            network: its index.
            gradients: in the order of `of_network`.
            limit: None leaves them as they are.
            factor: what they were scaled by before.

        Returns:
            Their norm, if there is a limit.
        """
        room = list(self.returned[network].values())
        if unused := [own for own, given in zip(room, gradients, strict=True) if given is None]:
            torch._foreach_zero_(unused)
        used = [own for own, given in zip(room, gradients, strict=True) if given is not None]
        found = [given for given in gradients if given is not None]
        torch._foreach_copy_(used, found)
        if limit is None:
            return None
        norm: Tensor = torch.stack(torch._foreach_norm(found)).norm()
        torch._foreach_mul_(used, (limit * factor / norm.clamp(min=1e-12)).clamp(max=1.0))
        return norm

    def forget(self, network: int) -> None:
        """Leaves out what a network has sent."""
        torch._foreach_zero_(list(self.returned[network].values()))


def _as_used(stack: Tensor) -> Tensor:
    """A stack with kernels in the memory format of the images.

    A channels-last convolution would otherwise copy a contiguous kernel in its forward and again in
    its backward pass.
    """
    if stack.dim() != 5:
        return stack
    return stack.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
