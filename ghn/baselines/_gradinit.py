"""GradInit (Zhu et al., 2021): learns a scale per tensor so that the first optimiser step lowers
the loss most.

For parameters w_i and scales a_i it minimises, over a, the loss after one step from a*w,

    L(S2; a*w - lr * step(grad L(S1; a*w)))   subject to   ||grad L(S1; a*w)|| <= gamma,

by gradient steps on a; while the constraint is broken, it descends on the gradient norm instead.
Half of S2 is in S1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ghn.baselines.config import GradInitConfig
from ghn.images import Images, endless_batches


def gradinit(
    model: nn.Module, images: Images, config: GradInitConfig | None = None, *, seed: int = 0
) -> list[float]:
    """Scales the parameters of `model` in place, each tensor as a whole.

    Batch norms use batch statistics, as in training. Zero tensors (biases) stay zero whatever their
    scale.

    Returns:
        the loss after the look-ahead step at each iteration, NaN where the iteration served the
        constraint instead.
    """
    config = config or GradInitConfig()
    device = next(model.parameters()).device
    base = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    scales = {name: torch.ones((), device=device, requires_grad=True) for name in base}
    names = list(base)
    adam = torch.optim.Adam(list(scales.values()), lr=config.scale_lr)
    history: list[float] = []
    was_training = model.training
    model.train()

    def loss_of(parameters: dict[str, Tensor], x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        output = functional_call(model, (parameters, dict(buffers)), (x_BCHW,))
        return functional.cross_entropy(output if isinstance(output, Tensor) else output[0], y_B)

    batch_size = min(config.batch_size, len(images))
    batches = endless_batches(images, batch_size, seed, device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for _ in range(config.iterations):
            x_BCHW, y_B = next(batches)
            parameters = {name: base[name] * scales[name] for name in names}
            loss = loss_of(parameters, x_BCHW, y_B)
            gradients = torch.autograd.grad(
                loss, list(parameters.values()), create_graph=True, allow_unused=True
            )
            known = [
                torch.zeros_like(p) if g is None else g
                for p, g in zip(parameters.values(), gradients, strict=True)
            ]
            norm = torch.stack([gradient.square().sum() for gradient in known]).sum().sqrt()
            if float(norm.detach()) > config.gamma:
                objective = norm
                history.append(float("nan"))
            else:
                half = len(y_B) // 2
                fresh_x, fresh_y = next(batches)
                x2_BCHW = torch.cat([x_BCHW[:half], fresh_x[: len(y_B) - half]])
                y2_B = torch.cat([y_B[:half], fresh_y[: len(y_B) - half]])
                steps = (
                    [gradient.sign() for gradient in known] if config.optimizer == "adam" else known
                )
                ahead = {
                    name: parameter - config.lr * step
                    for (name, parameter), step in zip(parameters.items(), steps, strict=True)
                }
                objective = loss_of(ahead, x2_BCHW, y2_B)
                history.append(float(objective.detach()))
            adam.zero_grad()
            objective.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(list(scales.values()), config.clip)
            adam.step()
            with torch.no_grad():
                for scale in scales.values():
                    scale.clamp_(min=config.min_scale)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in scales:
                parameter.mul_(scales[name])
    model.train(was_training)
    return history
