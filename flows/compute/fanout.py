"""One function over many items: on this machine's cores, or on a Ray cluster.

    for row in fan_out(evaluate_one, architectures, FanOut(workers=8)):
        rows.append(row)

What is worth knowing:

- Results come as they are completed, not in the order of the items; a caller that needs an order
  sorts the rows.
- The function travels to a worker once, however many items there are, so it may hold a model
  (`functools.partial`).
- A worker that dies (out of memory, a crash in a kernel, `kill -9`) takes nothing else with it:
  finished results are kept and its item is tried again. `joblib.Parallel` would lose the whole
  call, so this drives joblib's process pool (loky) itself. The last try of an item runs alone, so
  an item that kills its worker never takes a neighbour along.
- An exception that the function raises is the caller's business: it is raised here, at once, unless
  `failed` turns it into a result. It is not retried, since the same input gives the same exception.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
import joblib
from joblib.externals.loky import process_executor
from joblib.externals.loky.process_executor import ProcessPoolExecutor, TerminatedWorkerError
from tqdm import tqdm

from flows.compute.gpus import VARIABLE, visible
from flows.compute.shell import exit_with_parent
from flows.settings.fanout import FanOut
from ghn.errors import ConfigError, GHNError

Item = TypeVar("Item")
Result = TypeVar("Result")

Submit = Callable[[Item], "Future[Result]"]


class LostWorkerError(GHNError):
    """The worker died each time an item was tried, most often for want of memory."""


def fan_out(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    config: FanOut | None = None,
    *,
    describe: Callable[[Item], str] = str,
    failed: Callable[[Item, Exception], Result] | None = None,
    title: str | None = None,
) -> Iterator[Result]:
    """Yields `function(item)` for each item in order of completion, with a progress bar.

    Args:
        function: Called in a worker; it and the items travel by cloudpickle. With one local worker
            it is called in this process.
        items: What to work on; consumed lazily, so a generator of a million items is fine.
        config: Where; by default all cores of this machine.
        describe: Names an item in messages.
        failed: Called here with an item and the exception that its function raised, or with a
            `LostWorkerError`; what it returns is yielded as the item's result. Without it the
            exception is raised and the rest is cancelled.
        title: Of the progress bar; by default the function's name.

    Raises:
        LostWorkerError: A worker died on every try of an item, and `failed` is not given.
        ConfigError: The Ray backend is asked for and Ray is not installed or not reachable.
    """
    config = config or FanOut()
    total = len(items) if isinstance(items, Sized) else None
    backend = _backend(function, config, total)
    with _progress(title or _name(function), total) as progress, backend as (submit, workers):
        for item, outcome in _completed(submit, items, workers, config.retries, describe):
            progress.update()
            if not isinstance(outcome, Exception):
                yield outcome
            elif failed is not None:
                yield failed(item, outcome)
            else:
                raise outcome


def _completed(
    submit: Submit[Item, Result],
    items: Iterable[Item],
    workers: int,
    retries: int,
    describe: Callable[[Item], str],
) -> Iterator[tuple[Item, Result | Exception]]:
    """Pairs of an item and its result or exception; an item whose worker died is submitted
    again.
    """
    fresh = iter(items)
    again: deque[tuple[Item, int]] = deque()  # with the number of tries so far
    # the last try of an item: nothing else runs meanwhile
    alone: deque[tuple[Item, int]] = deque()
    running: dict[Future[Result], tuple[Item, int]] = {}

    def next_item() -> tuple[Item, int] | None:
        if again:
            return again.popleft()
        for item in fresh:
            return item, 0
        return None

    while True:
        while len(running) < workers and (waiting := next_item()) is not None:
            running[submit(waiting[0])] = waiting
        if not running:
            if not alone:
                return
            waiting = alone.popleft()
            running[submit(waiting[0])] = waiting
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            item, tries = running.pop(future)
            error = future.exception()
            if error is None:
                yield item, future.result()
            elif not _is_lost(error):
                if not isinstance(error, Exception):
                    raise error
                yield item, error
            elif tries < retries:
                tqdm.write(f"a worker died; trying {describe(item)} again", file=sys.stderr)
                (again if tries + 1 < retries else alone).append((item, tries + 1))
            else:
                yield (
                    item,
                    LostWorkerError(
                        f"{describe(item)}: the worker died {tries + 1} times. It may need more"
                        " memory than there is: use fewer workers (fanout.workers), or look for"
                        " the kernel's out-of-memory message (dmesg)."
                    ),
                )


def _is_lost(error: BaseException) -> bool:
    """Whether a worker died, as opposed to the function having raised."""
    return isinstance(error, TerminatedWorkerError | LostWorkerError)


def _backend(
    function: Callable[[Item], Result], config: FanOut, total: int | None
) -> AbstractContextManager[tuple[Submit[Item, Result], int]]:
    if config.backend == "ray":
        return _ray(function, config)
    workers = config.workers or max(1, joblib.cpu_count() // config.threads)
    if total is not None:
        workers = min(workers, max(total, 1))
    return _local(function, config, workers) if workers > 1 else _here(function)


@contextmanager
def _here(function: Callable[[Item], Result]) -> Iterator[tuple[Submit[Item, Result], int]]:
    """In this process: nothing to start, and a debugger works."""

    def submit(item: Item) -> Future[Result]:
        future: Future[Result] = Future()
        try:
            future.set_result(function(item))
        except Exception as error:
            future.set_exception(error)
        return future

    yield submit, 1


@contextmanager
def _local(
    function: Callable[[Item], Result], config: FanOut, workers: int
) -> Iterator[tuple[Submit[Item, Result], int]]:
    """Processes of this machine. A pool with a dead process is broken for good, so it is replaced
    by a new one.
    """
    setup = (cloudpickle.dumps(function), config.threads, visible() if config.gpus else [])
    threads = {
        name: str(config.threads)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    pool: ProcessPoolExecutor | None = None

    def submit(item: Item) -> Future[Result]:
        nonlocal pool
        if pool is None or pool._flags.broken is not None:
            pool = ProcessPoolExecutor(
                workers, timeout=300, initializer=_set_up, initargs=setup, env=threads
            )
        future: Future[Result] = pool.submit(_call, item)
        return future

    try:
        yield submit, workers
    finally:
        if pool is not None:
            # After the last result this is quick; after an exception or Ctrl-C it must not wait
            # for items at work.
            pool.shutdown(wait=True, kill_workers=True)


# Of a worker process: what it calls, and for Ray, whose workers outlive a fan-out, which
# function that is.
_function: Callable[[Any], Any]
_function_key: str | None = None


def _set_up(pickled_function: bytes, threads: int, gpus: list[str]) -> None:
    """Makes a fresh worker process ready: its GPU, its threads, the function."""
    global _function
    if gpus:  # before anything initialises CUDA
        # LokyProcess-<n>
        number = int(multiprocessing.current_process().name.rsplit("-", 1)[-1])
        os.environ[VARIABLE] = gpus[number % len(gpus)]
    exit_with_parent()
    # loky replaces a worker that has grown by 300 MB, taking it for leaking; networks of 500 MB
    # come and go here.
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize
    _function = cloudpickle.loads(pickled_function)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)


def _call(item: Any) -> Any:
    return _function(item)


@contextmanager
def _ray(
    function: Callable[[Item], Result], config: FanOut
) -> Iterator[tuple[Submit[Item, Result], int]]:
    """Tasks of a Ray cluster; one that is lost with its worker or node is submitted again, to
    wherever there is room.

    Nodes must be able to import this checkout: the same path on a shared file system, or an image
    that holds it.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "fanout.backend: ray is not installed; pip install 'ghn3-pipeline[ray]'"
        ) from error
    started_here = not ray.is_initialized()
    if started_here:
        try:
            ray.init(address=config.address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                "fanout.address: no Ray cluster answers at"
                f" {config.address or os.environ.get('RAY_ADDRESS')}: {error}"
            ) from error

    try:
        yield _ray_submit(function, config), config.workers or _ray_slots(config)
    finally:
        if started_here:
            ray.shutdown()


def _ray_slots(config: FanOut) -> int:
    """How many items the cluster can work on at once."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    slots = int(resources.get("CPU", 1) / config.threads)
    if config.gpus:
        slots = min(slots, int(resources.get("GPU", 0) / config.gpus))
    if slots < 1:
        raise ConfigError(
            f"fanout: no node of the Ray cluster can give {config.threads} CPUs and {config.gpus}"
            f" GPUs to an item; it has {resources}"
        )
    return slots


def _ray_submit(function: Callable[[Item], Result], config: FanOut) -> Submit[Item, Result]:
    import ray
    from ray import exceptions

    lost = (
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.OutOfMemoryError,
        exceptions.LocalRayletDiedError,
        exceptions.ObjectLostError,
    )
    task: Any = ray.remote(_call_on_node).options(
        num_cpus=config.threads, num_gpus=config.gpus, max_retries=0, scheduling_strategy="SPREAD"
    )
    setup = ray.put((cloudpickle.dumps(function), sys.path, str(Path.cwd())))

    def submit(item: Item) -> Future[Result]:
        future: Future[Result] = Future()

        def done(of_ray: Future[Any]) -> None:
            error = of_ray.exception()
            if error is None:
                future.set_result(of_ray.result())
            elif isinstance(error, lost):
                future.set_exception(LostWorkerError(str(error)))
            else:
                future.set_exception(getattr(error, "cause", None) or error)

        task.remote(setup.hex(), [setup], item, config.threads).future().add_done_callback(done)
        return future

    return submit


def _call_on_node(key: str, setup: list[Any], item: Any, threads: int) -> Any:
    """One item on a node of the cluster; the function is fetched and unpickled once per worker
    process.

    `setup` holds a reference (in a list, so that Ray does not fetch it for each task) to the
    pickled function and the driver's import path and directory, so that its modules are found and
    relative paths mean the same.
    """
    global _function, _function_key
    if key != _function_key:
        import ray

        pickled_function, import_path, directory = ray.get(setup[0])
        sys.path += [path for path in import_path if path not in sys.path]
        if Path(directory).is_dir():
            os.chdir(directory)
        _function = cloudpickle.loads(pickled_function)
        _function_key = key
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(threads)
    return _function(item)


def _progress(title: str, total: int | None) -> tqdm:
    """A live bar on a terminal; elsewhere (a worker's log) a line every half a minute."""
    return tqdm(
        desc=title,
        total=total,
        unit="item",
        mininterval=0.2 if sys.stderr.isatty() else 30.0,
        smoothing=0.05,
    )


def _name(function: Callable[..., Any]) -> str:
    return getattr(getattr(function, "func", function), "__name__", type(function).__name__)
