"""A worker process of `flows.compute.processes`: receives a function, then items, sends results.

    python -m flows.compute.worker FD PARENT

Messages on the connection FD are pickles; the first is the function and its number of threads.
"""

from __future__ import annotations

import signal
import sys
import traceback
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from flows.compute.parent import exit_with_parent


def main() -> None:
    """Serves until the connection is closed."""
    descriptor, parent = map(int, sys.argv[1:])
    exit_with_parent(parent, signal.SIGKILL)
    import cloudpickle

    with Connection(descriptor) as connection:
        try:
            try:
                function, threads = cloudpickle.loads(connection.recv_bytes())
            except Exception as error:  # a module that cannot be imported: said for every item
                function, threads = partial(_refuse, error), 1
            if (torch := sys.modules.get("torch")) is not None:
                torch.set_num_threads(threads)
            while True:
                item = connection.recv_bytes()
                connection.send_bytes(_answer(function, item))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _refuse(error: Exception, _item: Any) -> None:
    raise error


def _answer(function: Any, pickled: bytes) -> bytes:
    """The pickle of whether the function succeeded, and its result or exception."""
    import cloudpickle

    try:
        answer: bytes = cloudpickle.dumps((True, function(cloudpickle.loads(pickled))))
    except BaseException as error:
        error.add_note(f"In a worker process:\n{''.join(traceback.format_exception(error))}")
        try:
            answer = cloudpickle.dumps((False, error))
            cloudpickle.loads(answer)
        except Exception:  # not every exception survives the way between processes
            answer = cloudpickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return answer


if __name__ == "__main__":
    main()
