"""Fan-out over processes of this machine.

A thread per worker process hands it one item after the other, so a worker that dies fails its own
item and no other, and the next item gets a fresh process. (A pool such as `concurrent.futures` has
is broken as a whole by one dead process, and cannot end its workers in the middle of an item.)
"""

from __future__ import annotations

import math
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import cloudpickle

from flows.compute import gpus
from flows.compute.backend import LostWorkerError, Submit
from flows.settings.fanout import FanOut
from flows.settings.imports import ROOT
from ghn.errors import ConfigError


@contextmanager
def processes(
    function: Callable[[Any], Any], config: FanOut, total: int | None
) -> Iterator[tuple[Submit, int]]:
    """Workers for `total` items: one per GPU share, or per `threads` cores where no GPU is used.

    GPUs are held against other trainings and fan-outs of this machine meanwhile. A single worker
    without a GPU is this process: nothing to start, and a debugger works.

    Raises:
        ConfigError: an item asks for more GPUs than this machine has.
    """
    found = gpus.visible() if config.gpus != 0 else []
    each = config.gpus if config.gpus is not None else float(bool(found))
    if each and not gpus.slots(len(found), each):
        raise ConfigError(
            f"fanout.gpus = {each:g}, but this machine has {len(found)} GPUs to use; null takes"
            " what there is"
        )
    at_least = max(1, math.ceil(each))
    holding: AbstractContextManager[list[str]] = (
        gpus.hold(at_least, found, at_most=len(found)) if each else nullcontext([])
    )
    with holding as held:
        shares = gpus.shares(held, each) if each else [""] * max(1, _cores() // config.threads)
        workers = min(config.workers or len(shares), max(total or len(shares), 1))
        workers = min(workers, len(shares)) if each else workers
        if workers == 1 and not each:
            yield _here(function), 1
        else:
            visible = [shares[number % len(shares)] for number in range(workers)]
            with _pool(function, config.threads, visible) as submit:
                yield submit, workers


def _cores() -> int:
    """Those that this process may use: of its affinity mask and its container."""
    import joblib

    return int(joblib.cpu_count())


def _here(function: Callable[[Any], Any]) -> Submit:
    def submit(item: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(item))
        except Exception as error:
            future.set_exception(error)
        return future

    return submit


@contextmanager
def _pool(function: Callable[[Any], Any], threads: int, visible: list[str]) -> Iterator[Submit]:
    """A worker per entry of `visible` (the GPUs that it sees); all are killed at the end."""
    setup = cloudpickle.dumps((function, threads))
    workers = [_Worker(setup, _environment(threads, devices)) for devices in visible]
    free: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def call(item: bytes) -> Any:
        worker = free.get()
        try:
            return worker.call(item)
        finally:
            free.put(worker)

    # Its threads live until the end, as `exit_with_parent` of the processes they start demands.
    pool = ThreadPoolExecutor(len(workers), thread_name_prefix="fan-out")
    try:
        yield lambda item: pool.submit(call, cloudpickle.dumps(item))
    finally:
        # After an exception or Ctrl-C nothing must wait for items at work.
        for worker in workers:
            worker.kill()
        pool.shutdown(cancel_futures=True)
        for worker in workers:
            worker.reap()


def _environment(threads: int, devices: str) -> dict[str, str]:
    """A worker's environment: this process's import path, its threads and its GPUs.

    The checkout stands first on the path, so that a `flows` among a user's files is not taken for
    ours.
    """
    numbers = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)
    )
    path = os.pathsep.join([str(ROOT), *(entry or str(Path.cwd()) for entry in sys.path)])
    own = {**gpus.ALLOCATOR, **os.environ}
    return {**own, **numbers, gpus.VARIABLE: devices, "PYTHONPATH": path}


class _Worker:
    """A process that is started when it is needed, and again after it died."""

    def __init__(self, setup: bytes, environment: Mapping[str, str]) -> None:
        self._setup, self._environment = setup, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()

    def call(self, item: bytes) -> Any:
        """The function's result for a pickled item; raises its exception or `LostWorkerError`."""
        try:
            if self._process is None:
                self._start()
            self._connection.send_bytes(item)
            succeeded, outcome = cloudpickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:  # the other end of the connection is gone
            code = self.reap()
            raise LostWorkerError(f"the worker died (exit code {code})") from error
        if succeeded:
            return outcome
        raise outcome

    def kill(self) -> None:
        """Kills the process for good, whatever it is doing; its thread sees the connection end."""
        self._ended.set()
        if self._process is not None:
            self._process.kill()

    def _start(self) -> None:
        if self._ended.is_set():
            raise LostWorkerError("the fan-out has ended")
        self._connection, theirs = multiprocessing.Pipe()
        with theirs:
            descriptor = str(theirs.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __package__ + ".worker", descriptor, str(os.getpid())],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C is for this process, which ends its workers
            )
        if self._ended.is_set():
            self._process.kill()
        self._connection.send_bytes(self._setup)

    def reap(self) -> int | None:
        """Waits for the process, which is killed; returns its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        self._connection.close()
        process.kill()
        return process.wait()
