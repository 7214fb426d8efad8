"""Which GPUs of this machine a training or a fan-out takes: those that nothing else holds.

A GPU is held by a lock on a file, which ends with the process that holds it, however that ends. So
stages that are started at once (by Prefect, by DVC's queue, by hand) share a machine's GPUs without
knowing of each other.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Literal

from flows.settings.fanout import FanOut
from ghn.locks import locked

Device = Literal["auto", "cpu", "cuda"]
"""`base.device`."""

VARIABLE = "CUDA_VISIBLE_DEVICES"
ALLOCATOR = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""Of every process that computes on a GPU, unless its user has another: architectures of all sizes
take turns, and segments that grow leave fewer gaps. PyTorch reads it as the first tensor is made
there.
"""
LOCKS = Path(tempfile.gettempdir()) / f"ghn-gpus-{os.getuid()}"


def visible() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none on a machine
    without.
    """
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get(VARIABLE)
    return (
        [name.strip() for name in named.split(",")][:count]
        if named
        else [str(index) for index in range(count)]
    )


def agree(device: Device, fanout: FanOut) -> tuple[Device, FanOut]:
    """`base.device` and the section `fanout` with one answer: items that take no GPU compute on
    processors, and the other way round.
    """
    if device == "cpu" or fanout.gpus == 0:
        return "cpu", fanout.model_copy(update={"gpus": 0.0})
    return device, fanout


def slots(gpus: int, each: float) -> int:
    """How many items that take `each` GPUs fit on `gpus` GPUs at once.

    The one rule for ranks, fan-out, Ray and Prefect: a part (0.25) is a part of one GPU, never of
    two; more than one are whole.
    """
    return gpus * int(1 / each + 1e-9) if each < 1 else gpus // math.ceil(each)


def shares(gpus: Sequence[str], each: float) -> list[str]:
    """What each of `slots` items sees, as CUDA_VISIBLE_DEVICES; neighbours on different GPUs."""
    if each < 1:
        return list(gpus) * slots(1, each)
    whole = math.ceil(each)
    return [
        ",".join(gpus[start : start + whole])
        for start in range(0, whole * slots(len(gpus), each), whole)
    ]


def ranks(processes: int, meta_batch_size: int, gpus: int, per_gpu: int = 1) -> int:
    """How many ranks train: `processes`, but no more on one GPU than `per_gpu`.

    Args:
        processes: `train.processes`.
        meta_batch_size: architectures per step, which the ranks share evenly.
        gpus: to train on; 0 is a training on processors.
        per_gpu: `train.ranks_per_gpu`.
    """
    room = slots(gpus, 1 / per_gpu)
    if gpus == 0 or processes <= room:
        return processes
    return max(count for count in range(1, room + 1) if meta_batch_size % count == 0)


def training(processes: int, meta_batch_size: int, gpus: int, per_gpu: int = 1) -> tuple[int, int]:
    """The `ranks` of a training, and how many GPUs they take: its slots for Prefect, its locks."""
    count = ranks(processes, meta_batch_size, gpus, per_gpu)
    return count, math.ceil(count / per_gpu) if gpus else 0


@contextmanager
def hold(
    count: int,
    gpus: Sequence[str],
    directory: Path | None = None,
    poll_seconds: float = 2.0,
    at_most: int | None = None,
) -> Iterator[list[str]]:
    """Waits until `count` of `gpus` are free and holds them; yields their names.

    All or none are held, so that two that wait do not keep from each other what both need.

    Args:
        count: GPUs that are needed.
        gpus: to choose from.
        directory: of the locks; by default `LOCKS`.
        poll_seconds: between two looks.
        at_most: holds so many if more than `count` are free; by default `count`.
    """
    directory = directory or LOCKS
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        with ExitStack() as locks:
            free = (
                gpu
                for gpu in gpus
                if locks.enter_context(locked(directory / gpu, wait=False)) is not None
            )
            held = list(islice(free, at_most or count))
            if len(held) >= count:
                yield held
                return
        time.sleep(poll_seconds)


@contextmanager
def held_for_us(count: int, gpus: Sequence[str]) -> Iterator[None]:
    """Holds `count` of `gpus`, which alone this process and its children see meanwhile; nothing
    without GPUs.
    """
    if not gpus:
        yield
        return
    before = os.environ.copy()
    with hold(count, gpus) as held:
        ours = {VARIABLE: ",".join(held), **{k: before.get(k, v) for k, v in ALLOCATOR.items()}}
        os.environ.update(ours)
        try:
            yield
        finally:
            for name in ours:
                del os.environ[name]
            os.environ.update({name: before[name] for name in ours if name in before})
