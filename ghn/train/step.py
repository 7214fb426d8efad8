"""The loss of a meta-batch and its gradient (eq. 10).

Notable: each target network is differentiated with respect to its predicted parameters on its own,
right after its
forward pass, and its activations are freed before the next one starts. One backward pass then
carries the gradients of all predicted parameters through the hypernetwork. The result is the
gradient of the whole loss; memory is that of one target network instead of m. Parts of a step carry
the labels of `record_function`, for profilers.

Shape legend: M architectures, B images, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.profiler import record_function

from ghn.models.batch import GraphBatch
from ghn.models.hypernetwork import GHN
from ghn.train.config import TrainConfig


class MetaBatch(Protocol):
    """Architectures for one step: their graphs and, in the same order, networks without parameters
    of their own.
    """

    @property
    def graphs(self) -> GraphBatch:
        """Their graphs."""

    @property
    def networks(self) -> Sequence[nn.Module]:
        """On the meta device; parameter names are those of the graphs."""

    @property
    def index(self) -> Sequence[int]:
        """Numbers that tell the architectures of a step apart, whatever the rank."""


@dataclass(frozen=True)
class Losses:
    """Means over the architectures of a meta-batch (of one rank), as 0-dimensional tensors on the
    device.
    """

    loss: Tensor
    cross_entropy: Tensor
    penalty: Tensor
    accuracy: Tensor

    def stack(self) -> Tensor:
        """(4,) float32."""
        return torch.stack((self.loss, self.cross_entropy, self.penalty, self.accuracy)).float()


@dataclass(frozen=True)
class PendingBackward:
    """Outputs of the hypernetwork and the gradient of the loss with respect to each: what is left
    is its own part.
    """

    outputs: list[Tensor]
    gradients: list[Tensor]

    def run(self) -> None:
        """Accumulates the gradients of the hypernetwork's parameters."""
        with record_function("predict backward"):
            torch.autograd.backward(self.outputs, self.gradients)


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    """The precision of the forward passes."""
    if config.amp == "off":
        return nullcontext()
    return torch.autocast(
        device.type, dtype=torch.float16 if config.amp == "fp16" else torch.bfloat16
    )


def meta_batch_losses(
    ghn: GHN,
    batch: MetaBatch,
    images_BCHW: Tensor,
    labels_B: Tensor,
    config: TrainConfig,
    step: int = 0,
    scale: float = 1.0,
) -> tuple[Losses, PendingBackward]:
    """Predicts parameters for all networks, runs each forward and backward.

    Args:
        ghn: the hypernetwork.
        batch: M architectures, all of a meta-batch or a rank's share.
        images_BCHW: normalised images, the same for all architectures.
        labels_B: their labels.
        config: penalty, smoothing, precision, seed.
        step: of training; with the seed and an architecture's index it decides the dropout masks.
        scale: factor on all gradients (loss scaling of fp16).

    Returns:
        The losses, and the gradients that are still to be carried through the hypernetwork. Both
        are means over M.
    """
    m = len(batch.networks)
    device = images_BCHW.device
    with autocast(config, device), record_function("predict"):
        prediction = ghn(batch.graphs)
        penalty_M = prediction.penalty(config.penalty)
    outputs: list[Tensor] = [penalty_M]
    gradients: list[Tensor] = [torch.full_like(penalty_M, config.gamma * scale / m)]
    losses: list[Tensor] = []
    accuracies: list[Tensor] = []
    for index, network, parameters in zip(
        batch.index, batch.networks, prediction.parameters, strict=True
    ):
        torch.manual_seed(_dropout_seed(config.seed, step, index))
        leaves = {name: _leaf(tensor) for name, tensor in parameters.items()}
        with autocast(config, device), record_function("networks forward"):
            logits_BK = functional_call(network, leaves, (images_BCHW,))
            loss = cross_entropy(
                logits_BK.float(), labels_B, label_smoothing=config.label_smoothing
            )
        with record_function("networks backward"):
            found = torch.autograd.grad(
                loss * (scale / m), list(leaves.values()), allow_unused=True
            )
        used = [
            (tensor, grad)
            for tensor, grad in zip(parameters.values(), found, strict=True)
            if grad is not None
        ]
        outputs += [tensor for tensor, _ in used]
        gradients += _clipped([grad for _, grad in used], config.network_clip, scale / m)
        losses.append(loss.detach())
        accuracies.append((logits_BK.argmax(1) == labels_B).float().mean())
    cross_entropy_, penalty = torch.stack(losses).mean(), penalty_M.detach().mean()
    total = cross_entropy_ + config.gamma * penalty
    return Losses(total, cross_entropy_, penalty, torch.stack(accuracies).mean()), PendingBackward(
        outputs, gradients
    )


def _leaf(tensor: Tensor) -> Tensor:
    """A predicted parameter, cut off from the hypernetwork; kernels in the memory format of the
    images.

    A channels-last convolution would otherwise copy a contiguous kernel in its forward and again in
    its backward pass.
    """
    leaf = tensor.detach()
    if leaf.dim() == 4:
        leaf = leaf.contiguous(memory_format=torch.channels_last)
    return leaf.requires_grad_()


def _clipped(gradients: list[Tensor], limit: float | None, factor: float) -> Sequence[Tensor]:
    """Scales the gradient of one network down to norm `limit`, if it is larger; `factor` is what it
    was scaled by.
    """
    if limit is None:
        return gradients
    norm = torch.stack(torch._foreach_norm(gradients)).norm()
    shrink = (limit * factor / norm.clamp(min=1e-12)).clamp(max=1.0)
    return torch._foreach_mul(gradients, [shrink] * len(gradients))


def _dropout_seed(seed: int, step: int, index: int) -> int:
    """One seed per architecture of the whole run: masks do not depend on ranks, nor on what was
    drawn before.
    """
    return int.from_bytes(
        hashlib.blake2b(f"{seed}/{step}/{index}".encode(), digest_size=7).digest(), "big"
    )
