"""Scores that rank architectures without training (Abdelfattah et al., 2021; paper table 19).

Each score is computed at the network's parameters as they are, on one mini-batch; higher is meant
to be better. Sums go over the weights of convolutions and linear layers that are not frozen.

Shape legend: B images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from ghn.outputs import heads
from ghn.predict.batchnorm import batch_statistics
from ghn.tracing.network import unwrap

Score = Callable[[nn.Module, Tensor, Tensor], float]


def gradnorm(model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> float:
    """Sum over layers of the L2 norm of the gradient of the loss."""
    return sum(float(gradient.norm()) for _, gradient in _weight_gradients(model, x_BCHW, y_B))


def snip(model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> float:
    """Sum over weights of |w * dL/dw| (Lee et al., 2019): how much the loss would change without
    the weight.
    """
    return sum(
        float((weight * gradient).abs().sum())
        for weight, gradient in _weight_gradients(model, x_BCHW, y_B)
    )


def plain(model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> float:
    """Sum over weights of w * dL/dw (Mozer & Smolensky, 1989)."""
    return sum(
        float((weight * gradient).sum())
        for weight, gradient in _weight_gradients(model, x_BCHW, y_B)
    )


def fisher(model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> float:
    """Sum over the channels of all layers of 1/2 mean_B (sum over positions of z * dL/dz)^2 (Theis
    et al., 2018).

    z is the output of a convolution or linear layer and L the mean loss of the batch.
    """
    model = unwrap(model)  # compiled code may run without the hooks
    layers: list[nn.Module] = []
    outputs: list[Tensor] = []

    def record(layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        if not output.requires_grad:
            return output
        layers.append(layer)
        outputs.append(output)
        return output.clone()  # what follows may change it in place

    hooks = [module.register_forward_hook(record) for module in _layers(model)]
    try:
        with batch_statistics(model):
            loss = functional.cross_entropy(_logits(model(x_BCHW)), y_B)
            gradients = _gradients(loss, outputs)
    finally:
        for hook in hooks:
            hook.remove()
    total = 0.0
    for layer, output, gradient in zip(layers, outputs, gradients, strict=True):
        if gradient is None:
            continue
        product = output.detach() * gradient
        # linear: (B, ..., C) with positions, if any, in the middle; convolutions: (B, C, ...)
        first, end = (1, product.dim() - 1) if isinstance(layer, nn.Linear) else (2, product.dim())
        positions = tuple(range(first, end))
        saliency_BC = product.sum(positions) if positions else product
        total += float(saliency_BC.square().mean(0).sum()) / 2
    return total


def jacobcov(model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> float:
    """Minus the divergence of the eigenvalues of the correlations of the Jacobian from 1 (Mellor et
    al., 2021).

    J is the Jacobian of the sum of logits by each image; with e the eigenvalues of the (B, B)
    correlation matrix of its rows the score is -sum(log(e + k) + 1 / (e + k)), k = 1e-5: largest
    where images are told apart locally.
    """
    images_BCHW = x_BCHW.detach().clone().requires_grad_()
    with batch_statistics(model):
        (jacobian,) = torch.autograd.grad(_logits(model(images_BCHW)).sum(), images_BCHW)
    correlation_BB = torch.corrcoef(jacobian.flatten(1).double())
    shifted_B = torch.linalg.eigvalsh(torch.nan_to_num(correlation_BB)).clamp_min(0.0) + 1e-5
    return -float((shifted_B.log() + 1 / shifted_B).sum())


def synflow(model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> float:
    """Sum of w * dR/dw with R the sum of outputs of the network of |w| on an image of ones (Tanaka
    et al., 2020).

    Batch norms are left out (they become the identity), so that R is the product of absolute
    weights along paths. The sums are of 64-bit numbers: paths of a deep network overflow 32.
    """
    return _synflow(model, x_BCHW, normalised=False)


def synflow_bn(model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> float:
    """`synflow` with batch norms in place, in evaluation mode."""
    return _synflow(model, x_BCHW, normalised=True)


SCORES: dict[str, Score] = {
    "gradnorm": gradnorm,
    "snip": snip,
    "fisher": fisher,
    "jacobcov": jacobcov,
    "plain": plain,
    "synflow-bn": synflow_bn,
    "synflow": synflow,
}
"""In the order of table 19."""


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's rank correlation tau-b, which accounts for ties; NaN if one side is constant."""
    from scipy.stats import kendalltau

    return float(kendalltau(a, b).statistic)


def _synflow(model: nn.Module, x_BCHW: Tensor, *, normalised: bool) -> float:
    # what hooks computed in the last pass (the old weight norm) is no leaf, which no copy takes
    computed = [w for layer in _layers(model) if (w := vars(layer).get("weight")) is not None]
    network = copy.deepcopy(model, {id(weight): weight.detach() for weight in computed})
    network = network.double().eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.abs_()
    if not normalised:
        for name, module in list(network.named_modules(remove_duplicate=False)):
            if isinstance(module, _BatchNorm):
                network.set_submodule(name, nn.Identity())
    else:
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is None:
                module.register_buffer(
                    "running_mean", torch.zeros(module.num_features, dtype=torch.float64)
                )
                module.register_buffer(
                    "running_var", torch.ones(module.num_features, dtype=torch.float64)
                )
    ones = torch.ones(1, *x_BCHW.shape[1:], dtype=torch.float64, device=x_BCHW.device)
    pairs = _with_gradients(network, lambda: _logits(network(ones)).sum())
    return sum(float((weight * gradient).sum()) for weight, gradient in pairs)


def _weight_gradients(model: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Weights of convolutions and linear layers, each with the gradient of the mean
    cross-entropy.
    """
    with batch_statistics(model):
        return _with_gradients(model, lambda: functional.cross_entropy(_logits(model(x_BCHW)), y_B))


def _with_gradients(model: nn.Module, value: Callable[[], Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Weights of convolutions and linear layers that are not frozen, computed ones (weight norm)
    among them, each with the gradient of the value of a forward pass.
    """
    with parametrize.cached():  # one tensor per computed weight: what is asked for is what is used
        result = value()
        # a weight that layers share counts once
        distinct = {
            id(weight): weight for layer in _layers(model) if (weight := layer.weight).requires_grad
        }
        weights = list(distinct.values())
        gradients = _gradients(result, weights)
    return [(w.detach(), g) for w, g in zip(weights, gradients, strict=True) if g is not None]


def _gradients(of: Tensor, tensors: list[Tensor]) -> Sequence[Tensor | None]:
    if not (tensors and of.requires_grad):  # everything is frozen
        return [None] * len(tensors)
    return torch.autograd.grad(of, tensors, allow_unused=True)


def _layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, _ConvNd | nn.Linear)]


def _logits(output: Any) -> Tensor:
    return heads(output)[0]
