"""MetaInit (Dauphin & Schoenholz, 2019): learns the norm of each weight so that gradients change
little along a step.

The gradient quotient compares the gradient g with what it would become after one step, g - Hg:

    GQ = mean over parameters of | (g - Hg) / (g + eps) - 1 |,   eps = sign(g) * 1e-5,

zero where the loss is linear around the parameters. MetaInit feeds it random inputs and labels, so
it needs no data, and descends with momentum on the *sign* of dGQ/d||w||; directions of the weights
stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from ghn.baselines.config import MetaInitConfig
from ghn.errors import ConfigError
from ghn.failures import require_trainable
from ghn.models.sending import send
from ghn.modes import modes_kept
from ghn.outputs import heads
from ghn.randomness import seeded

SMALLEST_NORM = 0.01
"""Of the initial norm; without a bound a weight may pass through zero, where it stays or turns
round.
"""


def gradient_quotient(loss: Tensor, parameters: Sequence[Tensor], epsilon: float = 1e-5) -> Tensor:
    """GQ as above, differentiable. Hg comes from a second backward pass; H is never formed.
    Parameters that the loss does not depend on (heads for training only) are left out.

    Args:
        loss: a scalar that depends on some of `parameters`, and has second derivatives.
        parameters: those it is taken over.
        epsilon: keeps the quotient finite.
    """
    slopes: Sequence[Tensor | None] = torch.autograd.grad(
        loss, parameters, create_graph=True, allow_unused=True
    )
    used = [(p, slope) for p, slope in zip(parameters, slopes, strict=True) if slope is not None]
    half_square = torch.stack([gradient.square().sum() for _, gradient in used]).sum() / 2
    changes: Sequence[Tensor | None] = torch.autograd.grad(
        half_square, [parameter for parameter, _ in used], create_graph=True, allow_unused=True
    )
    count = sum(parameter.numel() for parameter, _ in used)
    terms = []
    for (_, gradient), change in zip(used, changes, strict=True):
        sign = torch.where(gradient.detach() >= 0, 1.0, -1.0)
        after = gradient if change is None else gradient - change
        terms.append((after / (gradient + epsilon * sign) - 1).abs().sum())
    return torch.stack(terms).sum() / count


def metainit(
    model: nn.Module,
    image_shape: Sequence[int],
    num_classes: int,
    config: MetaInitConfig | None = None,
    *,
    seed: int = 0,
) -> list[float]:
    """Changes the norms of the weights (two or more dimensions) of `model` in place.

    Args:
        image_shape: (C, H, W) of the random inputs.
        num_classes: of the random labels.

    Returns:
        GQ at each iteration.

    Raises:
        ConfigError: no weight is trainable, or a parameter has no shape or no values.
    """
    config = config or MetaInitConfig()
    require_trainable(model)
    weights = [
        parameter
        for parameter in model.parameters()
        if parameter.requires_grad and parameter.dim() >= 2
    ]
    if not weights:
        raise ConfigError(
            f"{type(model).__name__} has no weight of two or more dimensions to train, which"
            " MetaInit needs"
        )
    velocity = [torch.zeros((), device=weight.device) for weight in weights]
    least = [SMALLEST_NORM * weight.detach().norm() for weight in weights]
    device = weights[0].device
    random = torch.Generator().manual_seed(seed)
    shape = (config.batch_size, *image_shape)
    history: list[float] = []
    with modes_kept(model), seeded(seed):
        # batch norm as the affine map that it is at the start, which also has third derivatives
        model.eval()
        for _ in range(config.iterations):
            x_BCHW = send(torch.randn(*shape, generator=random, device="cpu"), device)
            y_B = torch.randint(num_classes, shape[:1], generator=random, device="cpu")
            y_B = send(y_B, device)
            with sdpa_kernel(SDPBackend.MATH):  # which has second derivatives
                output = model(x_BCHW)
            loss = functional.cross_entropy(heads(output)[0], y_B)
            quotient = gradient_quotient(loss, weights, config.epsilon)
            history.append(float(quotient.detach()))
            slopes: Sequence[Tensor | None] = torch.autograd.grad(
                quotient, weights, allow_unused=True
            )
            with torch.no_grad():
                for i, (weight, slope) in enumerate(zip(weights, slopes, strict=True)):
                    if slope is None:
                        continue
                    norm = weight.norm()
                    moves = norm > 0  # found out where the weight is: reading it waits for a GPU
                    towards = torch.sign((slope * weight).sum() / norm)
                    changed = config.momentum * velocity[i] - config.lr * towards
                    velocity[i] = torch.where(moves, changed, velocity[i])
                    longer = torch.maximum(norm + velocity[i], least[i]) / norm
                    weight.mul_(torch.where(moves, longer, 1.0))
    return history
