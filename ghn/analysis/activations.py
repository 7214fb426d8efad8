"""Variance of activations through a network (paper figs. 6, bottom, and 9)."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghn.tracing.network import unwrap


@torch.no_grad()
def activation_variances(model: nn.Module, x_BCHW: Tensor) -> dict[str, float]:
    """Variance of the output of each convolution and linear layer, by name, in the order in which
    they are run.

    Over all entries of the output: images, channels and positions. A layer that runs more than once
    counts the first time. The model runs in the mode it is in: `model.eval()` is right for trained
    parameters, `with ghn.predict.batch_statistics(model)` for those that come without running
    statistics.
    """
    variances: dict[str, float] = {}
    model = unwrap(model)  # compiled code may run without the hooks
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, _ConvNd | nn.Linear):

                def record(
                    _module: nn.Module, _inputs: object, output: Tensor, name: str = name
                ) -> None:
                    variances.setdefault(name, float(output.float().var()))

                stack.callback(module.register_forward_hook(record).remove)
        model(x_BCHW)
    return variances
