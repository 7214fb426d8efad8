"""The loss of a meta-batch and its gradient (eq. 10).

Notable: each target network is differentiated with respect to its predicted parameters on its own,
right after its forward pass, and its activations are freed before the next one starts. One backward
pass then carries the gradients of all predicted parameters through the hypernetwork. The result is
the gradient of the whole loss; memory is that of one target network instead of m. Parts of a step
carry the labels of `record_function`, for profilers.

Shape legend: M architectures, B images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.profiler import record_function

from ghn.models.batch import GraphBatch
from ghn.models.hypernetwork import GHN
from ghn.models.sending import send_list
from ghn.randomness import seed_of
from ghn.train.config import TrainConfig
from ghn.train.functional import placed
from ghn.train.leaves import Leaves
from ghn.train.recompute import recomputed


class MetaBatch(Protocol):
    """Architectures for one step: their graphs and, in the same order, networks without parameters
    of their own.
    """

    @property
    def graphs(self) -> GraphBatch:
        """Their graphs."""

    @property
    def networks(self) -> Sequence[nn.Module]:
        """They are on the meta device; parameter names are those of the graphs."""

    @property
    def index(self) -> Sequence[int]:
        """Numbers that tell the architectures of a step apart, whatever the rank."""


@dataclass(frozen=True)
class Losses:
    """Means over the architectures of a meta-batch (of one rank) that take part in the step, as
    0-dimensional tensors on the device; NaN if none does.

    Attributes:
        loss: cross-entropy plus penalty (eq. 10).
        cross_entropy: of the images.
        penalty: before gamma.
        accuracy: on the images.
        takes_part_M: which architectures take part: those whose loss and gradient are finite; None
            if all do, whatever they are.
    """

    loss: Tensor
    cross_entropy: Tensor
    penalty: Tensor
    accuracy: Tensor
    takes_part_M: Tensor | None = None

    def stack(self) -> Tensor:
        """(4,) float32."""
        return torch.stack((self.loss, self.cross_entropy, self.penalty, self.accuracy)).float()


@dataclass(frozen=True)
class PendingBackward:
    """Outputs of the hypernetwork and the gradient of the loss with respect to each: what is left
    is its own part.

    Attributes:
        penalty_M: penalties of the networks.
        weight: of each penalty in the loss.
        leaves: predicted parameters and the gradients that came back.
        takes_part_M: as in `Losses`.
    """

    penalty_M: Tensor
    weight: float
    leaves: Leaves
    takes_part_M: Tensor | None = None

    def run(self, takes_part: Sequence[bool] | None = None) -> None:
        """Accumulates the gradients of the hypernetwork's parameters.

        Args:
            takes_part: `takes_part_M`, if it has been read: reading it waits for the device.
        """
        if takes_part is None and self.takes_part_M is not None:
            takes_part = self.takes_part_M.tolist()
        weight_M = torch.full_like(self.penalty_M, self.weight)
        if takes_part is not None and not all(takes_part):
            weight_M *= send_list(takes_part, weight_M.device)
            for network, takes in enumerate(takes_part):
                if not takes:
                    self.leaves.forget(network)
        outputs, gradients = self.leaves.outputs, self.leaves.gradients
        with record_function("predict backward"):
            torch.autograd.backward([self.penalty_M, *outputs], [weight_M, *gradients])


@dataclass(frozen=True)
class Passed:
    """What became of one network: its loss, its accuracy, and where it is bounded the norm of the
    gradient of the loss with respect to its parameters.
    """

    loss: Tensor
    accuracy: Tensor
    norm: Tensor | None


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
    ghn.autocast_decoders = config.amp_decoders
    with autocast(config, images_BCHW.device), record_function("predict"):
        prediction = ghn(batch.graphs)
        penalty_M = prediction.penalty(config.penalty)
    leaves = Leaves(prediction)
    passed: list[Passed] = []
    for number, (index, network) in enumerate(zip(batch.index, batch.networks, strict=True)):
        # A seed per network of the whole run, so that masks do not depend on ranks.
        _seed_dropout(seed_of(config.seed, step, index), images_BCHW.device)
        passed.append(_through(network, number, leaves, images_BCHW, labels_B, config, scale / m))
    takes_part_M = _takes_part(passed, config, scale)
    return (
        _means(passed, penalty_M.detach(), takes_part_M, config),
        PendingBackward(penalty_M, config.gamma * scale / m, leaves, takes_part_M),
    )


def _through(
    network: nn.Module,
    number: int,
    leaves: Leaves,
    images_BCHW: Tensor,
    labels_B: Tensor,
    config: TrainConfig,
    factor: float,
) -> Passed:
    """Network number `number` forward and backward; `factor` is on all gradients."""
    parameters = leaves.of_network[number]
    # The backward pass, too, sees these parameters where it computes activations again.
    with placed(network, parameters), recomputed(network, config.recompute):
        with autocast(config, images_BCHW.device), record_function("networks forward"):
            logits_BK = network(images_BCHW)
            smoothing = config.label_smoothing
            loss = cross_entropy(logits_BK.float(), labels_B, label_smoothing=smoothing)
        with record_function("networks backward"):
            gradients = torch.autograd.grad(
                loss * factor, list(parameters.values()), allow_unused=True
            )
            norm = leaves.sent(number, gradients, config.network_clip, factor)
    accuracy = (logits_BK.argmax(1) == labels_B).float().mean()
    return Passed(loss.detach(), accuracy, norm)


def _takes_part(passed: Sequence[Passed], config: TrainConfig, scale: float) -> Tensor | None:
    """(M,) which networks take part in the step: all, unless `network_clip` bounds what each may
    do.

    A gradient that overflows with a loss scale that can still shrink is no fault of its network:
    the step is skipped, and the scale halved.
    """
    if config.network_clip is None:
        return None
    finite_M = torch.stack([own.loss for own in passed]).isfinite()
    if config.amp != "fp16" or scale <= config.amp_scale_floor:
        finite_M &= torch.stack([own.norm for own in passed if own.norm is not None]).isfinite()
    return finite_M


def _means(
    passed: Sequence[Passed], penalty_M: Tensor, takes_part_M: Tensor | None, config: TrainConfig
) -> Losses:
    values_3M = torch.stack(
        (
            torch.stack([own.loss for own in passed]),
            penalty_M.float(),
            torch.stack([own.accuracy for own in passed]),
        )
    )
    if takes_part_M is None:
        means_3 = values_3M.mean(1)
    else:  # NaN if none takes part
        means_3 = torch.where(takes_part_M, values_3M, 0.0).sum(1) / takes_part_M.sum()
    entropy, penalty, accuracy = means_3.unbind()
    loss = entropy + config.gamma * penalty
    return Losses(loss, entropy, penalty, accuracy, takes_part_M)


def _seed_dropout(seed: int, device: torch.device) -> None:
    """Seeds the generator that draws the masks. `torch.manual_seed` sees to every kind of device,
    and for those that are not in use it writes down who called: as much work as a few layers.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    elif device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    else:
        torch.manual_seed(seed)
