"""One optimizer step, about which all ranks agree."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ghn.models.hypernetwork import GHN
from ghn.models.sending import send_list
from ghn.train.config import TrainConfig
from ghn.train.data import StepData, on_device
from ghn.train.distributed import Ranks
from ghn.train.memory import out_of_memory
from ghn.train.optimizer import LossScaler, make_optimizer
from ghn.train.schedule import learning_rate
from ghn.train.step import Losses, PendingBackward, meta_batch_losses


@dataclass(frozen=True)
class Outcome:
    """What became of a step; equal on all ranks but for the words of `reason`.

    Attributes:
        loss, cross_entropy, penalty, accuracy: means over the architectures of all ranks.
        gradient_norm: of the hypernetwork, before clipping; NaN if there is none.
        lr: learning rate.
        reason: why the step was skipped; empty if it was taken.
        left_out: architectures that had no part in it.
    """

    loss: float
    cross_entropy: float
    penalty: float
    accuracy: float
    gradient_norm: float
    lr: float
    reason: str
    left_out: int


class Updates:
    """Takes steps on a hypernetwork.

    Attributes:
        optimizer: AdamW over its parameters.
        scaler: of the loss, for fp16.
    """

    def __init__(self, ghn: GHN, config: TrainConfig, ranks: Ranks) -> None:
        self.ghn, self.config, self.ranks = ghn, config, ranks
        self.optimizer = make_optimizer(ghn, config, ranks.world)
        self.scaler = LossScaler(config, ranks.device)

    def take(self, step: int, data: StepData) -> Outcome:
        """One step, or a skipped one; all ranks come to the same verdict."""
        lr = learning_rate(step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        losses, pending, failure = self._forward(step, data)
        means, failed, left_out, takes_part = self._agree(losses, len(data.batch.networks))
        norm = math.nan
        if not failed:
            assert pending is not None
            failure = _run(pending, takes_part)
            del losses, pending  # activations of the hypernetwork
            failed = self.ranks.average_gradients(self.ghn.parameters(), bool(failure))
            if not failed:
                norm = self.scaler.step(self.optimizer, self.config.clip)
        if failed and not failure:
            finite = math.isfinite(means[0])
            failure = "out of memory on another rank" if finite else f"the loss is {means[0]}"
        elif not failed and not math.isfinite(norm):
            failure = "the gradient is not finite"
        loss, entropy, penalty, accuracy = means
        return Outcome(loss, entropy, penalty, accuracy, norm, lr, failure, left_out)

    def _forward(
        self, step: int, data: StepData
    ) -> tuple[Losses | None, PendingBackward | None, str]:
        try:
            batch = on_device(data.batch, self.ranks.device)
            losses, pending = meta_batch_losses(
                self.ghn,
                batch,
                data.images_BCHW,
                data.labels_B,
                self.config,
                step,
                self.scaler.scale,
            )
        except RuntimeError as error:
            return None, None, out_of_memory(error)
        return losses, pending, ""

    def _agree(
        self, losses: Losses | None, m: int
    ) -> tuple[list[float], bool, int, list[bool] | None]:
        """Mean losses over the architectures of all ranks that take part, whether any rank failed
        or a mean is not finite, how many architectures are left out, and which of this rank's take
        part (None: all).

        Waits for the device once.

        Args:
            losses: of this rank's `m` architectures; None if it ran out of memory.
        """
        device = self.ranks.device
        numbers = send_list([0.0] * 4 + [float(losses is None), 1.0, 0.0], device)
        own: Tensor | None = None
        if losses is not None:
            numbers[:4] = losses.stack()
            own = losses.takes_part_M
        if own is not None:
            count = own.sum()
            share = count / m
            means = torch.where(count > 0, numbers[:4] * share, 0.0)
            numbers = torch.cat((means, numbers[4:5], torch.stack((share, m - count))))
        total = self.ranks.sum(numbers)
        read = (total if own is None else torch.cat((total, own.float()))).tolist()
        shares = read[5]
        mean = [value / shares if shares else math.nan for value in read[:4]]
        takes_part = None if own is None else [flag > 0 for flag in read[7:]]
        return mean, read[4] > 0 or not math.isfinite(mean[0]), int(read[6]), takes_part


def _run(pending: PendingBackward, takes_part: list[bool] | None) -> str:
    """The backward pass through the hypernetwork; why it failed for want of memory, or nothing."""
    try:
        pending.run(takes_part)
    except RuntimeError as error:
        return out_of_memory(error)
    return ""
