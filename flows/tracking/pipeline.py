"""The run of a whole pipeline, below which those of its stages hang.

The stages find it through the environment (`PARENT_VARIABLE`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from flows.tracking.client import tracking_uri
from flows.tracking.origin import PARENT_VARIABLE, as_params, origin
from flows.tracking.sender import Op, Sender


@contextmanager
def pipeline_run(
    name: str, params: Mapping[str, Any], experiment: str = "ghn3"
) -> Iterator[str | None]:
    """A parent run for the stages that are started inside: yields its id, None while the store is
    away.

    The stages find it through the environment. So does a pipeline that runs stages for another (in
    another pool): it makes no run of its own, and its stages hang below that of the other.
    """
    if outer := os.environ.get(PARENT_VARIABLE):
        yield outer
        return
    sender = Sender()
    tags = {"stage": "pipeline", "log": uuid4().hex, **origin(name)}
    status = "FAILED"
    try:
        _quietly(
            sender,
            {
                "op": "start",
                "experiment": experiment,
                "name": name,
                "tags": tags,
                "params": as_params(params),
                "time_ms": int(time.time() * 1000),
            },
        )
        if sender.run_id is not None:
            os.environ[PARENT_VARIABLE] = sender.run_id
        yield sender.run_id
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if sender.run_id is not None:
            _quietly(sender, {"op": "end", "status": status, "time_ms": int(time.time() * 1000)})
        os.environ.pop(PARENT_VARIABLE, None)


def _quietly(sender: Sender, op: Op) -> None:
    try:
        sender.send(op)
    except Exception as error:  # as in StageRun: the pipeline is worth more than its log
        print(f"MLflow store {tracking_uri()}: {error}", file=sys.stderr)
