"""An early warning of a run that goes wrong."""

from __future__ import annotations

import math
from collections import deque
from statistics import median


class DivergenceWatch:
    """Says early that a run goes wrong.

    Two signs: the median cross-entropy of the last `window` steps has risen well above the lowest
    such median, and the gradient norm has risen to ten times its median of the last 500 steps.
    Medians, because the loss of a single network without norms can be astronomic without harm to
    the run. Each sign is reported once until it has passed: a loss, until half of the rise is gone.
    Medians of 50 steps of four networks differ by a tenth in a run with nothing wrong.
    """

    def __init__(self, window: int = 200, rise: float = 0.25) -> None:
        self.rise = rise
        self._losses: deque[float] = deque(maxlen=window)
        self._norms: deque[float] = deque(maxlen=500)
        self._lowest = math.inf
        self._active: set[str] = set()

    def look(self, cross_entropy: float, gradient_norm: float) -> list[str]:
        """Takes a step's numbers in and returns new warnings."""
        self._losses.append(cross_entropy)
        warnings = []
        if len(self._losses) == self._losses.maxlen:
            loss, norm = median(self._losses), median(self._norms)
            self._lowest = min(self._lowest, loss)
            text = (
                f"the loss rises: its running median is {loss:.3f}, it was {self._lowest:.3f};"
                " lower lr or clip"
            )
            rise = self.rise / 2 if "loss" in self._active else self.rise
            warnings += self._switch("loss", loss > (1 + rise) * self._lowest, text)
            text = f"gradient norm {gradient_norm:.3g}, ten times its median {norm:.3g}"
            warnings += self._switch("norm", gradient_norm > 10 * norm, text)
        self._norms.append(gradient_norm)
        return warnings

    def _switch(self, sign: str, on: bool, text: str) -> list[str]:
        new = on and sign not in self._active
        (self._active.add if on else self._active.discard)(sign)
        return [text] if new else []
