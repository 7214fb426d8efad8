"""What a run of the pipeline leaves on its page in Prefect: a summary, and its stages with links to
MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.settings import paths
from flows.tracking.client import client, experiment_id, run_page, tracking_uri
from flows.tracking.pipeline import note_results
from flows.words import plus_minus
from ghn.addresses import first_line

DONE = ("Completed", "Unchanged", "Restored")
"""States of a stage whose outputs are up to date."""


def leave(
    stages: Sequence[Mapping[str, str]],
    directory: Path,
    parent_run: str | None,
    experiment_name: str,
) -> None:
    """Makes the artifacts of the present flow run.

    Args:
        stages: `stage`, `state` and `seconds` of each.
        directory: where they ran.
        parent_run: the MLflow run that theirs hang below.
        experiment_name: of MLflow.
    """
    if any(row["stage"] == "evaluate" and row["state"] in DONE for row in stages):
        note_results(parent_run, directory)
    links = mlflow_links(parent_run, experiment_name)
    rows = [{**stage, "MLflow run": links.get(stage["stage"], "")} for stage in stages]
    create_table_artifact(rows, key="stages", description="What became of each stage")
    text = summary(rows, directory)
    if parent := links.get(""):
        text += f"\n\nMLflow: {parent}"
    create_markdown_artifact(text, key="pipeline", description="What the pipeline did and measured")


def mlflow_links(parent_run: str | None, experiment_name: str) -> dict[str, str]:
    """Markdown links to the MLflow runs of the stages below `parent_run` ("" for itself); empty
    without a server.
    """
    if parent_run is None or not tracking_uri().startswith("http"):
        return {}
    try:
        mlflow_client = client()
        identifier = experiment_id(mlflow_client, experiment_name)
        below = f"tags.mlflow.parentRunId = '{parent_run}'"
        runs = mlflow_client.search_runs(
            [identifier], below, order_by=["attributes.start_time ASC"]
        )
    except Exception as error:  # the server went away: the pipeline is worth more than its links
        get_run_logger().warning("no links to MLflow: %s", first_line(error))
        return {}
    # Of the tries of a stage the last one counts.
    named = [(run.data.tags.get("stage", ""), run.info.run_id) for run in runs]
    pairs = [("", parent_run), *named]
    return {name: f"[{run_id[:8]}]({run_page(identifier, run_id)})" for name, run_id in pairs}


def summary(rows: Sequence[Mapping[str, Any]], directory: Path = Path()) -> str:
    """The Markdown of the artifact: the stages, and the accuracies if the run saw to them."""
    lines = ["## Pipeline", "", "| stage | state | seconds |", "|---|---|---:|"]
    lines += [f"| {row['stage']} | {row['state']} | {row['seconds']} |" for row in rows]
    states = {row["stage"]: row["state"] for row in rows}
    if states.get("evaluate") not in DONE:  # what is there is of another run
        return "\n".join(lines)
    try:
        accuracies = json.loads((directory / paths.EVALUATION_SUMMARY).read_text())
    except (OSError, ValueError):
        return "\n".join(lines)
    lines += [
        "",
        "### Accuracy without training",
        "",
        "| split | networks | predicted | random |",
        "|---|---:|---:|---:|",
    ]
    for split, entry in accuracies.items():
        if "mean" in entry:
            lines.append(
                f"| {split} | {entry['architectures']} | {plus_minus(entry['mean'], entry['std'])} "
                f"| {plus_minus(entry['randinit_mean'], entry['randinit_std'])} |"
            )
    return "\n".join([*lines, "", f"Report: `{paths.REPORT}`"])
