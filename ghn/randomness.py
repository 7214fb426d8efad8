"""Random numbers that hang on a seed and leave the rest of the program alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager


def seed_of(*parts: object) -> int:
    """A seed of 56 bits that hangs on all of `parts` (by what `str` makes of them) and on nothing
    else: what is drawn for one network, step or epoch does not depend on what was drawn before.
    """
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


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
