"""Several processes of this machine that train one hypernetwork together: `torchrun` without its
command line.

A rank per GPU; or per core, since on a CPU the many small operations of the target networks keep
one core busy and no more. The launcher starts the ranks, ends all of them as soon as one fails, and
passes signals on. (PyTorch's own, `torch.distributed.launcher`, kills ranks half a minute after
Ctrl-C, which is less than a step may take, and cannot be told to wait.)
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from flows.compute import gpus
from flows.compute.rank import LOST, MESSAGES
from flows.compute.supervise import GRACE_SECONDS

AFTER_FAILURE_SECONDS = 20.0
"""For the other ranks, which may wait for the one that ended in a collective operation."""


def run_training(
    processes: int,
    meta_batch_size: int,
    device: str,
    alone: Callable[[], object],
    module: str,
    *arguments: str,
    per_gpu: int = 1,
) -> int:
    """Trains with `processes` ranks, or as many as GPUs have room for, which are held meanwhile.

    Args:
        processes: `train.processes`.
        meta_batch_size: `train.meta_batch_size`.
        device: `base.device`; "cpu" leaves GPUs alone.
        alone: trains in this process, if one rank is enough.
        module: what several ranks run, and its `arguments`: see `run_ranks`.
        per_gpu: `train.ranks_per_gpu`.

    Returns:
        The exit code.
    """
    found = gpus.visible() if device != "cpu" else []
    count, taken = gpus.training(processes, meta_batch_size, len(found), per_gpu)
    if count < processes:
        print(
            f"train.processes = {processes}, but {len(found)} GPUs here"
            f" (train.ranks_per_gpu = {per_gpu}): {count} ranks"
        )
    with gpus.held_for_us(taken, found):
        if count > 1:
            return run_ranks(count, module, *arguments)
        alone()
        return 0


def run_ranks(processes: int, module: str, *arguments: str) -> int:
    """Calls `main` of `module` in `processes` ranks and returns 0, or the exit code of the first
    that failed; 128 + n after signal n.

    Ctrl-C and SIGTERM reach every rank once, which then have `GRACE_SECONDS` to end their step and
    write a checkpoint.

    Args:
        processes: ranks.
        module: what they run; it finds RANK, WORLD_SIZE and so on in its environment, as under
            `torchrun`.
        arguments: of its command line.
    """
    command = [sys.executable, "-m", "flows.compute.rank", str(os.getpid()), module, *arguments]
    common = {
        **gpus.ALLOCATOR,
        **os.environ,
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes)),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    ranks: list[subprocess.Popen[bytes]] = []
    with _signals() as received, _messages() as directory:
        common[MESSAGES] = directory
        try:
            for rank in map(str, range(processes)):
                environment = {**common, "RANK": rank, "LOCAL_RANK": rank}
                # Groups of their own: Ctrl-C is for the launcher, which passes it on once.
                ranks.append(subprocess.Popen(command, env=environment, process_group=0))
            return _wait(ranks, received)
        finally:
            for process in ranks:
                process.kill()
                process.wait()


def _wait(ranks: Sequence[subprocess.Popen[bytes]], received: list[int]) -> int:
    """Passes signals on until all ranks have ended, or their time is over; the exit code."""
    passed, failure, deadline = 0, 0, float("inf")
    while None in (codes := [process.poll() for process in ranks]) and time.monotonic() < deadline:
        for number in received[passed:]:
            _send(ranks, number)
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        passed = len(received)
        if passed and any(code is not None for code in codes):
            # The others have ended their step as well, or wait for that one without end: it was
            # stopped while it imported, and they are where they hear of no signal.
            deadline = min(deadline, time.monotonic() + AFTER_FAILURE_SECONDS)
        if not failure and not passed and (failure := next(filter(None, codes), 0)):
            _send(ranks, signal.SIGTERM)
            deadline = time.monotonic() + AFTER_FAILURE_SECONDS
        time.sleep(0.1)
    if received:
        return 128 + received[0]
    failure = failure or next(filter(None, codes), 0)
    return failure if failure >= 0 else 128 - failure  # as a shell counts them


def _send(ranks: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in ranks:
        if process.poll() is None:
            process.send_signal(number)


@contextmanager
def _messages() -> Iterator[str]:
    """A directory for what ranks have to say (`flows.compute.rank.say`); it is printed at last."""
    with TemporaryDirectory() as directory:
        yield directory
        texts = dict.fromkeys(path.read_text() for path in sorted(Path(directory).iterdir()))
        if len(texts) > 1:
            texts.pop(LOST, None)
        for text in texts:
            if any(other.startswith(f"{text}\n") for other in texts):
                continue  # which says more of the same
            print(f"ghn: {text}", file=sys.stderr)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that ask this process to stop, as they come."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
