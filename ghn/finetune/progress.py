"""What a stretch of training adds up to, kept where the network is.

Shape legend: B images of a batch, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ghn.finetune.sharing import Sharing


class Progress:
    """Sums over steps up to the first whose loss is not finite, that one included.

    Attributes:
        bad: 1 after a loss that was not finite, else 0; a scalar on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.bad = torch.zeros((), device=device)
        # losses, correct answers, steps with a finite loss, steps
        self._sums_4 = torch.zeros(4, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, logits_BK: Tensor, y_B: Tensor, look: bool) -> bool:
        """Takes a step in.

        Args:
            loss: 0-dimensional.
            logits_BK: of the batch.
            y_B: its labels.
            look: whether to wait for the device.

        Returns:
            Whether a loss was not finite, as far as was looked.
        """
        counts = 1 - self.bad
        self.bad = torch.maximum(self.bad, (~loss.isfinite()).float())
        correct = (logits_BK.argmax(1) == y_B).sum()
        values_4 = torch.stack(
            [loss.double(), correct.double(), (1 - self.bad).double(), counts.double()]
        )
        self._sums_4 += torch.where(counts > 0, values_4, 0.0)
        return look and bool(self.bad)

    def read(self, sharing: Sharing) -> tuple[float, float, int]:
        """Mean loss, number of correct answers of all ranks, number of steps with a finite loss;
        waits for the device.
        """
        sharing.sum(self._sums_4[1:2])  # the others are alike
        losses, correct, good, steps = self._sums_4.tolist()
        return losses / steps, correct, int(good)
