"""Random numbers that hang on a seed and leave the rest of the program alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, what PyTorch draws hangs on `seed`, on every device; on exit the generators of the
    CPU and of all GPUs, which `torch.manual_seed` sets together, are as they were.
    """
    import torch

    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(gpus):
        torch.manual_seed(seed)
        yield
