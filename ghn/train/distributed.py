"""Data parallelism over architectures: g ranks take m/g networks each, see the same images and
average gradients.

Why not `DistributedDataParallel`: it reduces inside the backward pass, where a rank that ran out of
memory leaves the others waiting for the time-out. Here all ranks first agree that they have a
gradient, so that a bad step is skipped by all of them together. The price is that communication
does not overlap the backward pass through the hypernetwork, which is short beside the target
networks'.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ghn.errors import GHNError

T = TypeVar("T")

_BUCKET_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Ranks:
    """This process among its peers.

    Attributes:
        rank: 0 to world - 1; rank 0 writes.
        world: number of processes.
        device: where this process computes.
        patient: a group to wait in for what other ranks do alone, however long it takes.
        host: a group for what is known on the CPU; None is the group of all else. Agreeing on it
            through NCCL would wait for the GPU.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    patient: dist.ProcessGroup | None = None
    host: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The element-wise sum over ranks."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def sum_patiently(self, values: Tensor) -> Tensor:
        """The element-wise sum of a tensor on the CPU, however long another rank takes for it."""
        if self.world > 1:
            dist.all_reduce(values, group=self.patient)
        return values

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag whether it is set on any rank."""
        if self.world == 1:
            return flags
        counts = torch.tensor([float(flag) for flag in flags], device="cpu")
        dist.all_reduce(counts, group=self.host)
        return tuple(count > 0 for count in counts.tolist())

    def broadcast(self, module: nn.Module) -> None:
        """Copies rank 0's parameters and buffers to all ranks."""
        if self.world > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.detach(), 0)

    def wait(self) -> None:
        """Waits until all ranks are here: for rank 0, which evaluates and writes checkpoints.

        The time-out of other operations, which tells that a rank hangs, does not hold here. A rank
        that died is noticed at once: its connections are closed.
        """
        if self.world > 1:
            dist.barrier(group=self.patient)

    def from_main(self, make: Callable[[], T]) -> T:
        """What rank 0 gets from `make`, on all ranks: plain containers with tensors on the CPU.

        Raises:
            GHNError: `make` raised it on rank 0.
        """
        if self.world == 1:
            return make()
        made: Any = None
        error: GHNError | None = None
        if self.is_main:
            try:
                made = make()
            except GHNError as raised:
                error = raised
        tensors: list[Tensor] = []
        box = [error, _replaced(made, lambda tensor: _numbered(tensor, tensors))]
        dist.broadcast_object_list(box, 0, group=self.patient)
        if box[0] is not None:
            raise box[0]
        received = _replaced(box[1], lambda place: self._received(place, tensors))
        return cast(T, made if self.is_main else received)

    def _received(self, place: Tensor, tensors: list[Tensor]) -> Tensor:
        own = tensors.pop(0).to(self.device) if self.is_main else None
        tensor = torch.empty_like(place, device=self.device) if own is None else own.contiguous()
        dist.broadcast(tensor, 0)
        return tensor.cpu()

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
        if self.any(failed)[0]:
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


def _replaced(tree: Any, replace: Callable[[Tensor], Tensor]) -> Any:
    """A copy of nested containers with each tensor replaced, in the order of the containers."""
    if isinstance(tree, Tensor):
        return replace(tree)
    if isinstance(tree, dict):
        return {key: _replaced(value, replace) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_replaced(value, replace) for value in tree)
    return tree


def _numbered(tensor: Tensor, tensors: list[Tensor]) -> Tensor:
    """A tensor without data of the same shape and type; the tensor itself goes to `tensors`."""
    tensors.append(tensor)
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


@contextmanager
def ranks(device: str = "auto", timeout_minutes: float = 30) -> Iterator[Ranks]:
    """Joins the process group that `torchrun` describes in the environment; alone without it.

    More ranks than GPUs share them (networks of CIFAR's size do not fill one): gradients then go
    through gloo, since NCCL wants a GPU for each rank.

    Args:
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        timeout_minutes: after which a collective operation fails because a rank died.
    """
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Ranks(device=torch.device("cuda", 0) if use_cuda else torch.device("cpu"))
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    gpus = torch.cuda.device_count() if use_cuda else 0
    target = torch.device("cuda", local % max(1, gpus)) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(target)
    alone = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= gpus
    dist.init_process_group("nccl" if alone else "gloo", timeout=timedelta(minutes=timeout_minutes))
    try:
        patient = dist.new_group(backend="gloo", timeout=timedelta(days=30))
        host = None
        if alone:
            host = dist.new_group(backend="gloo", timeout=timedelta(minutes=timeout_minutes))
        yield Ranks(
            dist.get_rank(),
            dist.get_world_size(),
            target,
            cast(dist.ProcessGroup, patient),
            cast(dist.ProcessGroup | None, host),
        )
    finally:
        dist.destroy_process_group()
