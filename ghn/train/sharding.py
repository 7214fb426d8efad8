"""Moments of AdamW that are kept by one rank each (ZeRO-1; Rajbhandari et al., 2020)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeGuard

from torch import nn
from torch.optim import AdamW, Optimizer

if TYPE_CHECKING:
    from torch.distributed.optim import ZeroRedundancyOptimizer


def sharded(parameters: Iterable[nn.Parameter], options: dict[str, Any]) -> Optimizer:
    """AdamW of which each rank keeps the moments of its share of the weights."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # takes a second to import

    return ZeroRedundancyOptimizer(parameters, AdamW, **options)


def _is_sharded(optimizer: Optimizer) -> TypeGuard[ZeroRedundancyOptimizer]:
    return hasattr(optimizer, "consolidate_state_dict")


def state_of(optimizer: Optimizer) -> dict[str, Any]:
    """The whole state, on rank 0, as an optimizer that is not sharded has it; all ranks call this
    together.
    """
    if not _is_sharded(optimizer):
        return optimizer.state_dict()
    optimizer.consolidate_state_dict(to=0)
    return optimizer.state_dict() if optimizer.rank == 0 else {}


def restore(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Goes on from a whole state, sharded before or not."""
    optimizer.load_state_dict(state)
    if _is_sharded(optimizer):
        optimizer.state.clear()  # it keeps the shard twice
        for parameter, moments in optimizer.optim.state.items():
            # It puts counters on the CPU, where a fused optimizer has them with the moments.
            moments["step"] = moments["step"].to(parameter.device)
