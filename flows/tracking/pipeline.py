"""The run of a whole pipeline, below which those of its stages hang.

The stages find it through the environment (`PARENT_VARIABLE`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from flows.settings import paths
from flows.settings.files import read_yaml
from flows.tracking.client import client
from flows.tracking.origin import PARENT_VARIABLE, as_params, origin
from flows.tracking.sender import Op, Sender
from ghn.addresses import first_line
from ghn.errors import ConfigError


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


def note_results(run_id: str | None, directory: Path = Path()) -> None:
    """Gives a pipeline's run the accuracies that its evaluation found, as metrics and in words, so
    that pipelines can be compared, and the report on them; nothing where there are none, or MLflow
    is away.

    Args:
        run_id: of the run.
        directory: the tree in which the pipeline ran.
    """
    try:
        found = json.loads((directory / paths.EVALUATION_SUMMARY).read_text())
        splits = {split: entry for split, entry in found.items() if "mean" in entry}
    except (OSError, ValueError, AttributeError, TypeError):
        return
    if run_id is None or not splits:
        return
    try:
        mlflow_client = client()
        for split, entry in splits.items():
            mlflow_client.log_metric(run_id, f"accuracy/{split}", entry["mean"])
            mlflow_client.log_metric(run_id, f"randinit_accuracy/{split}", entry["randinit_mean"])
        lines = [
            f"- {split}: {entry['mean']:.1%} of images right with predicted parameters,"
            f" {entry['randinit_mean']:.1%} with random ones"
            f" ({entry['architectures']:.0f} networks, {entry['errors']:.0f} failed)"
            for split, entry in splits.items()
        ]
        text = "\n".join(["Accuracy without any training:", "", *lines])
        mlflow_client.set_tag(run_id, "mlflow.note.content", text)
        if is_of_the_evaluation(directory):
            mlflow_client.log_artifact(run_id, str(directory / paths.REPORT), "report")
    except Exception as error:  # the pipeline is worth more than its log
        print(f"{first_line(error)}: the pipeline's run has no results", file=sys.stderr)


def is_of_the_evaluation(directory: Path) -> bool:
    """Whether the report in a tree was made from its evaluation, by what dvc.lock says, and not
    from one before it.
    """
    try:
        stages = read_yaml(directory / "dvc.lock")["stages"]
        reads = {entry["path"]: entry["md5"] for entry in stages["report"]["deps"]}
        wrote = {entry["path"]: entry["md5"] for entry in stages["evaluate"]["outs"]}
    except (ConfigError, KeyError, TypeError):
        return False
    evaluation = paths.EVALUATION.as_posix()
    same = evaluation in wrote and reads.get(evaluation) == wrote[evaluation]
    return same and (directory / paths.REPORT).is_file()


def _quietly(sender: Sender, op: Op) -> None:
    try:
        sender.send(op)
    except Exception as error:  # as in StageRun: the pipeline is worth more than its log
        print(f"{first_line(error)}. The pipeline goes on without a run.", file=sys.stderr)
