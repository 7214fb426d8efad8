"""Data parallelism over architectures: g ranks take m/g networks each, see the same images and
average gradients.

Why not `DistributedDataParallel`: it reduces inside the backward pass, where a rank that ran out of
memory leaves the
others waiting for the time-out. Here all ranks first agree that they have a gradient, so that a bad
step is skipped by all of them together. The price is that communication does not overlap the
backward pass through the hypernetwork, which is short beside the target networks'.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

_BUCKET_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Ranks:
    """This process among its peers.

    Attributes:
        rank: 0 to world - 1; rank 0 writes.
        world: number of processes.
        device: where this process computes.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The element-wise sum over ranks."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag whether it is set on any rank."""
        if self.world == 1:
            return flags
        counts = self.sum(torch.tensor([float(flag) for flag in flags], device=self.device))
        return tuple(count > 0 for count in counts.tolist())

    def broadcast(self, module: nn.Module) -> None:
        """Copies rank 0's parameters and buffers to all ranks."""
        if self.world > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.detach(), 0)

    def average_gradients(self, parameters: Iterable[nn.Parameter], failed: bool) -> bool:
        """Averages gradients over ranks, in buckets; a parameter without one counts as zero.

        Args:
            parameters: the same ones in the same order on all ranks.
            failed: this rank has no gradients (out of memory); all ranks learn of it.

        Returns:
            Whether any rank failed; gradients are then useless.
        """
        if self.world == 1:
            return failed
        parameters = list(parameters)
        for parameter in parameters:
            if parameter.grad is None or failed:
                parameter.grad = torch.zeros_like(parameter)
        any_failed = torch.tensor(float(failed), device=self.device)
        dist.all_reduce(any_failed)
        if any_failed > 0:
            return True
        bucket: list[Tensor] = []
        size = 0
        for parameter in parameters:
            assert parameter.grad is not None
            bucket.append(parameter.grad)
            size += parameter.grad.nbytes
            if size >= _BUCKET_BYTES:
                self._average(bucket)
                bucket, size = [], 0
        self._average(bucket)
        return False

    def _average(self, bucket: list[Tensor]) -> None:
        if not bucket:
            return
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        flat /= self.world
        parts = torch.split(flat, [gradient.numel() for gradient in bucket])
        torch._foreach_copy_(
            bucket, [part.view_as(gradient) for part, gradient in zip(parts, bucket, strict=True)]
        )


@contextmanager
def ranks(device: str = "auto", timeout_minutes: float = 30) -> Iterator[Ranks]:
    """Joins the process group that `torchrun` describes in the environment; alone without it.

    Args:
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        timeout_minutes: after which a collective operation fails because a rank died.
    """
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Ranks(device=torch.device("cuda", 0) if use_cuda else torch.device("cpu"))
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    target = torch.device("cuda", local) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(target)
    dist.init_process_group(
        "nccl" if use_cuda else "gloo", timeout=timedelta(minutes=timeout_minutes)
    )
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), target)
    finally:
        dist.destroy_process_group()
