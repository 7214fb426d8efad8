"""Several processes that train one network together.

Shape legend: B images of a batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ghn.errors import ConfigError


class Sharing:
    """A process among those that share the batches of a network; alone without a group.

    Attributes:
        rank: 0 to world - 1; rank 0 writes checkpoints.
        world: number of processes.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.world = 1 if group is None else dist.get_world_size(group)

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The network as training calls it: gradients are averaged as they come, and it begins as
        that of rank 0.
        """
        if self._group is None:
            return model
        # Norms' statistics are those of a rank's own images; rank 0's are kept, by `settle`.
        return DistributedDataParallel(model, process_group=self._group, broadcast_buffers=False)

    def part(self, x_BCHW: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's share of a batch.

        Raises:
            ConfigError: the batch does not divide among the ranks.
        """
        if len(y_B) % self.world:
            raise ConfigError(
                f"a batch of {len(y_B)} images does not divide among {self.world} ranks"
            )
        return x_BCHW[self.rank :: self.world], y_B[self.rank :: self.world]

    def mean(self, value: Tensor) -> Tensor:
        """The mean over ranks: not finite if it is not on one of them."""
        if self._group is None:
            return value
        value = value.clone()
        dist.all_reduce(value, group=self._group)
        return value / self.world

    def sum(self, value: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self._group is not None:
            dist.all_reduce(value, group=self._group)
        return value

    def settle(self, model: nn.Module) -> None:
        """Gives all ranks the buffers of rank 0."""
        if self._group is not None:
            first = dist.get_global_rank(self._group, 0)
            for buffer in model.buffers():
                dist.broadcast(buffer, first, group=self._group)

    def from_first(self, state: dict[str, Any] | None) -> dict[str, Any] | None:
        """What rank 0 has, on all ranks."""
        if self._group is None:
            return state
        box = [state]
        dist.broadcast_object_list(
            box, dist.get_global_rank(self._group, 0), group=self._group, device=torch.device("cpu")
        )
        return box[0]
