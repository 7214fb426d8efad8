"""The pipeline as a Prefect flow: a task per stage of dvc.yaml, in the order that its files imply.

A task runs `dvc repro --single-item <stage>`, so what has not changed is skipped here as it is there. The flow leaves a
Markdown artifact with the accuracies and the time of each stage.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from flows import paths
from flows.dvcfile import Declaration, read_stages
from flows.params import load_params
from flows.shell import stream
from flows.tracking import pipeline_run
from ghn.errors import GHNError

STAGE_TIMEOUT_SECONDS = 12 * 3600
SKIPPED = "didn't change, skipping"


class StageFailedError(GHNError):
    """A stage ended with an exit code other than 0; its output is in the log of the task run."""


def upstream(stages: Mapping[str, Declaration]) -> dict[str, set[str]]:
    """For each stage the stages whose outputs it reads; a file in an output directory counts, and the reverse."""
    producers = {Path(out): name for name, stage in stages.items() for out in stage.outputs}

    def reads(dependency: Path) -> set[str]:
        return {
            name
            for out, name in producers.items()
            if dependency == out or out in dependency.parents or dependency in out.parents
        }

    return {
        name: {source for dep in stage.inputs for source in reads(Path(dep))} - {name} for name, stage in stages.items()
    }


@task(name="stage", task_run_name="{stage}", retries=1, retry_delay_seconds=30, timeout_seconds=STAGE_TIMEOUT_SECONDS)
def run_stage(stage: str) -> tuple[str, float]:
    """Runs one stage through DVC; returns "ran" or "unchanged", and the seconds it took."""
    logger = get_run_logger()
    started = time.perf_counter()
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        logger.info(line)

    code = stream(["dvc", "repro", "--single-item", stage], on_line)
    if code:
        raise StageFailedError(f"stage {stage} failed with exit code {code}: {lines[-1] if lines else 'no output'}")
    status = "unchanged" if any(SKIPPED in line for line in lines) else "ran"
    return status, time.perf_counter() - started


@flow(name="pipeline", log_prints=True)
def pipeline() -> dict[str, str]:
    """Runs all stages; returns what became of each, and leaves a Markdown artifact."""
    params = load_params()
    tree = params.model_dump(mode="json", by_alias=True)
    stages = read_stages(tree)
    outcome: dict[str, tuple[str, float]] = {}
    with pipeline_run("pipeline (Prefect)", tree, params.base.experiment):
        for name in TopologicalSorter(upstream(stages)).static_order():
            outcome[name] = run_stage(name)
    create_markdown_artifact(summary(outcome), key="pipeline", description="What the pipeline did and measured")
    return {name: status for name, (status, _) in outcome.items()}


def summary(outcome: Mapping[str, tuple[str, float]]) -> str:
    """The Markdown of the artifact."""
    lines = ["## Pipeline", "", "| stage | | seconds |", "|---|---|---:|"]
    lines += [f"| {name} | {status} | {seconds:.1f} |" for name, (status, seconds) in outcome.items()]
    try:
        accuracies = json.loads((paths.RESULTS / "evaluation.json").read_text())
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
                f"| {split} | {entry['architectures']} | {entry['mean']:.1%} ± {entry['std']:.1%} "
                f"| {entry['randinit_mean']:.1%} ± {entry['randinit_std']:.1%} |"
            )
    return "\n".join([*lines, "", f"Report: `{paths.REPORT}`"])


if __name__ == "__main__":
    pipeline()
