"""Fan-out over a Ray cluster.

Nodes must be able to import this checkout: the same path on a shared file system, or an image that
holds it.
"""

from __future__ import annotations

import gc
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle

from flows.compute import gpus
from flows.compute.backend import LostWorkerError, Submit
from flows.settings.fanout import FanOut
from ghn.errors import ConfigError


@contextmanager
def cluster(function: Callable[[Any], Any], config: FanOut) -> Iterator[tuple[Submit, int]]:
    """Tasks of a Ray cluster; one that is lost with its worker or node is submitted again, to
    wherever there is room.

    Raises:
        ConfigError: Ray is not installed or not reachable, or no node has what an item asks for.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("fanout.backend: ray is not installed: pip install ray") from error
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
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        each, slots = room(nodes, config)
        if slots < 1:
            raise ConfigError(
                f"fanout: no node of the Ray cluster can give {config.threads} CPUs and {each} GPUs"
                f" to an item; they have {nodes}"
            )
        yield _submit(function, config.threads, each), config.workers or slots
    finally:
        if started_here:
            # Ray ends the process where another thread collects a reference to one of its objects
            # while it shuts down; so none may be left for a thread to find.
            gc.collect()
            ray.shutdown()


def room(nodes: Sequence[Mapping[str, float]], config: FanOut) -> tuple[float, int]:
    """The GPUs of an item as Ray wants them, and how many items fit on nodes with these resources:
    an item is on one node.
    """
    devices = [int(node.get("GPU", 0)) for node in nodes]
    each = config.gpus if config.gpus is not None else float(any(devices))
    slots = [int(node.get("CPU", 0) / config.threads) for node in nodes]
    if each:
        slots = [min(n, gpus.slots(k, each)) for n, k in zip(slots, devices, strict=True)]
    return each if each < 1 else float(math.ceil(each)), sum(slots)


def _submit(function: Callable[[Any], Any], threads: int, each: float) -> Submit:
    import ray
    from ray import exceptions

    lost = (
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.OutOfMemoryError,
        exceptions.LocalRayletDiedError,
        exceptions.ObjectLostError,
    )
    task: Any = ray.remote(_call).options(
        num_cpus=threads, num_gpus=each, max_retries=0, scheduling_strategy="SPREAD"
    )
    setup = ray.put((cloudpickle.dumps(function), sys.path, str(Path.cwd())))

    def submit(item: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def done(of_ray: Future[Any]) -> None:
            error = of_ray.exception()
            if error is None:
                future.set_result(of_ray.result())
            elif isinstance(error, lost):
                future.set_exception(LostWorkerError(str(error)))
            else:
                future.set_exception(getattr(error, "cause", None) or error)

        task.remote(setup.hex(), [setup], item, threads).future().add_done_callback(done)
        return future

    return submit


# Of a worker process, which outlives a fan-out: what it calls, and which function that is.
_function: Callable[[Any], Any]
_function_key: str | None = None


def _call(key: str, setup: list[Any], item: Any, threads: int) -> Any:
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
