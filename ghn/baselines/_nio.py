"""NIO (Yang et al., "Towards Theoretically Inspired Neural Initialization Optimization", 2022):
learns a scale per tensor so that the gradients of different images point the same way.

For parameters w_i, scales a_i and D parts S_1 ... S_D of a batch with gradients g_i = grad L(S_i;
a*w) it maximises, over a, the GradCosine

    GC = mean over i != j of <g_i, g_j> / (||g_i|| ||g_j||)
    subject to   mean over i of ||g_i|| <= gamma,

by gradient steps on a; while the constraint is broken, it descends on the mean norm instead. Parts
may overlap, which keeps their gradients apart from noise where batches are small.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from ghn.baselines._scales import Scales, gradients_of
from ghn.baselines.config import NIOConfig
from ghn.images import Images, endless_batches
from ghn.modes import modes_kept

TINY = 1e-12
"""Below any gradient norm of interest; keeps the derivative of a norm finite at zero."""


def gradient_cosine(gradients_DP: Tensor) -> Tensor:
    """Mean cosine of each pair of the D > 1 gradients over P parameters; a differentiable scalar.

    Of the unit vectors u_i, the sum over pairs i != j is |sum u_i|^2 - D.
    """
    count = len(gradients_DP)
    norms_D1 = (gradients_DP.square().sum(1, keepdim=True) + TINY**2).sqrt()
    total = (gradients_DP / norms_D1).sum(0).square().sum()
    return (total - count) / (count * (count - 1))


def nio(
    model: nn.Module, images: Images, config: NIOConfig | None = None, *, seed: int = 0
) -> list[float]:
    """Scales the parameters of `model` in place, each tensor as a whole.

    Batch norms use the statistics of the whole batch; dropout is off. Zero tensors (biases) stay
    zero whatever their scale.

    Returns:
        GC at each iteration, also at those that served the constraint.

    Raises:
        ConfigError: all parameters are frozen.
    """
    config = config or NIOConfig()
    device = next(model.parameters()).device
    scales = Scales(model, lr=config.scale_lr, clip=config.clip, least=config.min_scale)
    batch_size = max(min(config.batch_size, len(images)), config.parts)
    history: list[float] = []
    with _only_norms_train(model):
        batches = endless_batches(images, batch_size, seed, device=device)
        for _ in range(config.iterations):
            x_BCHW, y_B = next(batches)
            parameters = scales.parameters()
            losses_B = scales.loss(parameters, x_BCHW, y_B, "none")
            of_parts = [
                gradients_of(losses_B[part].mean(), parameters)
                for part in parts(len(y_B), config.parts, config.overlap)
            ]
            gradients_DP = torch.stack([torch.cat([g.flatten() for g in gs]) for gs in of_parts])
            cosine = gradient_cosine(gradients_DP)
            norm = (gradients_DP.square().sum(1) + TINY**2).sqrt().mean()
            history.append(float(cosine.detach()))
            scales.step(norm if float(norm.detach()) > config.gamma else -cosine)
    scales.apply()
    return history


def parts(n: int, count: int, overlap: float) -> list[slice]:
    """`count` runs of equal length of n images, each longer by `overlap` on either side as far as
    the batch goes.
    """
    length = n // count
    extra = int(overlap * length)
    ends = [*(length * i for i in range(count)), n]
    return [slice(max(0, start - extra), min(n, stop + extra)) for start, stop in pairwise(ends)]


@contextmanager
def _only_norms_train(model: nn.Module) -> Iterator[None]:
    """Batch norms use batch statistics, all else is as in evaluation; then the modes are back."""
    with modes_kept(model):
        for module in model.modules():
            module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)
        yield
