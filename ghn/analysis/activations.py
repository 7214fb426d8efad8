"""Variance of activations through a network (paper figs. 6, bottom, and 9)."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd


@torch.no_grad()
def activation_variances(model: nn.Module, x_BCHW: Tensor, *, batch_statistics: bool = True) -> dict[str, float]:
    """Variance of the output of each convolution and linear layer, by name, in the order in which they are run.

    Over all entries of the output: images, channels and positions. A layer that runs more than once counts the first
    time.

    Args:
        x_BCHW: the mini-batch that is propagated.
        batch_statistics: batch norms normalise by the batch, as is right for parameters that come without running
            statistics; with False by their running statistics (trained networks).
    """
    variances: dict[str, float] = {}
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm) and batch_statistics:
                _use_batch(module, stack)
            if isinstance(module, _ConvNd | nn.Linear):

                def record(_module: nn.Module, _inputs: object, output: Tensor, name: str = name) -> None:
                    variances.setdefault(name, float(output.float().var()))

                stack.callback(module.register_forward_hook(record).remove)
        model(x_BCHW)
    for module, training in was_training.items():
        module.training = training
    return variances


def _use_batch(norm: _BatchNorm, stack: ExitStack) -> None:
    """Until `stack` closes, `norm` normalises by the batch and leaves its running statistics alone."""
    mean, variance = norm.running_mean, norm.running_var
    norm.running_mean = norm.running_var = None

    def restore() -> None:
        norm.running_mean, norm.running_var = mean, variance

    stack.callback(restore)
