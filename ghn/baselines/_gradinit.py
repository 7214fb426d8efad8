"""GradInit (Zhu et al., 2021): learns a scale per tensor so that the first optimiser step lowers
the loss most.

For parameters w_i and scales a_i it minimises, over a, the loss after one step from a*w,

    L(S2; a*w - lr * step(grad L(S1; a*w)))   subject to   ||grad L(S1; a*w)|| <= gamma,

by gradient steps on a; while the constraint is broken, it descends on the gradient norm instead.
Half of S2 is in S1.
"""

from __future__ import annotations

import torch
from torch import nn

from ghn.baselines._scales import Scales, gradients_of
from ghn.baselines.config import GradInitConfig
from ghn.images import Images, endless_batches
from ghn.modes import modes_kept
from ghn.randomness import seeded


def gradinit(
    model: nn.Module, images: Images, config: GradInitConfig | None = None, *, seed: int = 0
) -> list[float]:
    """Scales the parameters of `model` in place, each tensor as a whole.

    Batch norms use batch statistics, as in training. Zero tensors (biases) stay zero whatever their
    scale.

    Returns:
        the loss after the look-ahead step at each iteration, NaN where the iteration served the
        constraint instead.

    Raises:
        ConfigError: all parameters are frozen.
    """
    config = config or GradInitConfig()
    device = next(model.parameters()).device
    scales = Scales(model, lr=config.scale_lr, clip=config.clip, least=config.min_scale)
    history: list[float] = []
    batch_size = min(config.batch_size, len(images))
    batches = endless_batches(images, batch_size, seed, device=device)
    with modes_kept(model), seeded(seed):
        model.train()
        for _ in range(config.iterations):
            x_BCHW, y_B = next(batches)
            parameters = scales.parameters()
            gradients = gradients_of(scales.loss(parameters, x_BCHW, y_B), parameters)
            norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
            if float(norm.detach()) > config.gamma:
                objective = norm
                history.append(float("nan"))
            else:
                half = len(y_B) // 2
                fresh_x, fresh_y = next(batches)
                x2_BCHW = torch.cat([x_BCHW[:half], fresh_x[: len(y_B) - half]])
                y2_B = torch.cat([y_B[:half], fresh_y[: len(y_B) - half]])
                steps = (
                    [gradient.sign() for gradient in gradients]
                    if config.optimizer == "adam"
                    else gradients
                )
                ahead = {
                    name: parameter - config.lr * step
                    for (name, parameter), step in zip(parameters.items(), steps, strict=True)
                }
                objective = scales.loss(ahead, x2_BCHW, y2_B)
                history.append(float(objective.detach()))
            scales.step(objective)
    scales.apply()
    return history
