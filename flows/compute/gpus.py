"""Which GPUs of this machine a training takes: those that no other training holds.

A GPU is held by a lock on a file, which ends with the process that holds it, however that ends. So
trainings that are started at once (by Prefect, by DVC's queue, by hand) share a machine's GPUs
without knowing of each other.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

VARIABLE = "CUDA_VISIBLE_DEVICES"
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


def ranks(processes: int, meta_batch_size: int, gpus: int) -> int:
    """How many ranks train: `processes`, but never two on one GPU.

    Args:
        processes: `train.processes`.
        meta_batch_size: architectures per step, which the ranks share evenly.
        gpus: to train on; 0 is a training on processors.
    """
    if gpus == 0 or processes <= gpus:
        return processes
    return max(count for count in range(1, gpus + 1) if meta_batch_size % count == 0)


@contextmanager
def hold(
    count: int, gpus: Sequence[str], directory: Path = LOCKS, poll_seconds: float = 2.0
) -> Iterator[list[str]]:
    """Waits until `count` of `gpus` are free and holds them; yields their names.

    All or none are held, so that two that wait do not keep from each other what both need.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        with ExitStack() as locks:
            held = list(islice((gpu for gpu in gpus if _lock(directory / gpu, locks)), count))
            if len(held) == count:
                yield held
                return
        time.sleep(poll_seconds)


def _lock(path: Path, locks: ExitStack) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    locks.callback(os.close, descriptor)
    return True
