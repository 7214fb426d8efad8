"""Several processes of this machine that train one hypernetwork together, without `torchrun`.

On a CPU the many small operations of the target networks keep one core busy and no more, so a rank per core is nearly
as many times faster. Rank 0 is this process (its messages, signals and exit code are the command's own); the others
run the same entry point with the environment that `torchrun` would give them.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SECONDS_TO_END = 30.0


@contextmanager
def local_ranks(processes: int, module: str) -> Iterator[None]:
    """Makes this process rank 0 of `processes` and starts the others as `python -m MODULE`.

    Does nothing for one process, or where a launcher (`torchrun`) has made this process a rank already. A rank that
    dies ends the collective operation that the others wait in, with an error; none outlives this process's block.

    Args:
        processes: ranks in all.
        module: what the other ranks run.
    """
    if processes == 1 or "RANK" in os.environ:
        yield
        return
    import torch

    threads = max(1, (os.cpu_count() or 1) // processes)
    common = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": str(threads),
    }
    before, threads_before = dict(os.environ), torch.get_num_threads()
    helpers: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, processes):
            environment = before | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            helpers.append(subprocess.Popen([sys.executable, "-m", module], env=environment, stdout=subprocess.DEVNULL))
        os.environ.update(common, RANK="0", LOCAL_RANK="0")
        torch.set_num_threads(threads)
        yield
        for helper in helpers:
            helper.wait(_SECONDS_TO_END)
    finally:
        for helper in helpers:
            if helper.poll() is None:
                helper.terminate()
                helper.wait()
        torch.set_num_threads(threads_before)
        os.environ.clear()
        os.environ.update(before)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
