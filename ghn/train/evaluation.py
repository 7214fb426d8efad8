"""Evaluation along the way, which ranks share where it can be divided.

One rank that evaluates while the others wait leaves their GPUs idle as long as it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch

from ghn.models.hypernetwork import GHN
from ghn.train.distributed import Ranks

Evaluate = Callable[[GHN], Mapping[str, float]]
"""From a hypernetwork to metrics."""


@runtime_checkable
class InParts(Protocol):
    """An evaluation that is several numbers, each of which any rank can find by itself: accuracies
    on architectures, say. All ranks are given it.
    """

    def __call__(self, ghn: GHN) -> Mapping[str, float]:
        """All parts and their metrics."""

    def __len__(self) -> int:
        """How many parts there are."""

    def part(self, ghn: GHN, number: int) -> float:
        """One of them."""

    def metrics(self, values: Sequence[float]) -> Mapping[str, float]:
        """What all of them say together."""


class Evaluation:
    """Evaluates a hypernetwork, by rank 0 or, in parts, by all ranks.

    Args:
        evaluate: what to do; `InParts` on all ranks is shared. None: nothing.
        ranks: this process among its peers; all of them make one of these together.
    """

    def __init__(self, evaluate: Evaluate | InParts | None, ranks: Ranks) -> None:
        self._evaluate, self._ranks = evaluate, ranks
        self._parts = evaluate if isinstance(evaluate, InParts) else None
        if ranks.any(self._parts is None)[0]:
            self._parts = None

    @torch.no_grad()
    def run(self, ghn: GHN) -> dict[str, float] | None:
        """Metrics; None where there are none to report: on ranks other than 0, or at all.

        Args:
            ghn: the same on all ranks that share; in evaluation mode afterwards.
        """
        ghn.eval()
        if self._parts is not None and self._ranks.world > 1:
            values = torch.zeros(len(self._parts), dtype=torch.float64)
            for number in range(self._ranks.rank, len(values), self._ranks.world):
                values[number] = self._parts.part(ghn, number)
            found = self._parts.metrics(self._ranks.sum_patiently(values).tolist())
            return _numbers(found) if self._ranks.is_main else None
        if self._evaluate is None or not self._ranks.is_main:
            return None
        return _numbers(self._evaluate(ghn))


def _numbers(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
