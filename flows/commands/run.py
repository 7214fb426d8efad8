"""`make run`: the whole pipeline through DVC, then where everything is.

    python -m flows.commands.run [--profile NAME] [TARGET ...]

Targets are stages of dvc.yaml; without any, all of them. Exit code: that of `dvc repro`, 130 after
Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from flows.compute.shell import environment
from flows.params import Params, load_params, use_profile
from flows.settings import paths
from flows.settings.dvcfile import read_stages
from flows.tracking.client import DEFAULT_URI, client, tracking_uri
from flows.tracking.run import pipeline_run
from ghn.errors import GHNError

INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `dvc repro` and prints a summary; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.commands.run", description="Run the pipeline."
    )
    parser.add_argument("targets", nargs="*", help="stages of dvc.yaml; by default all")
    parser.add_argument(
        "--profile", help="first write profile params/PROFILE.yaml into params.yaml"
    )
    options = parser.parse_args(arguments)
    console = Console(stderr=False)
    try:
        params = use_profile(options.profile) if options.profile else load_params()
    except GHNError as error:
        print(f"flows.commands.run: {error}", file=sys.stderr)
        return error.exit_code
    started = time.perf_counter()
    if not options.targets and _is_up_to_date(params):
        console.print("All stages are up to date.")
        code, run_id = 0, None
    else:
        tree, code = params.model_dump(mode="json", by_alias=True), INTERRUPTED
        try:
            with pipeline_run("pipeline", tree, params.base.experiment) as run_id:
                if code := dvc("repro", *options.targets):
                    raise (
                        KeyboardInterrupt
                        if code == INTERRUPTED
                        else subprocess.CalledProcessError(code, "dvc repro")
                    )
        except (KeyboardInterrupt, subprocess.CalledProcessError):
            console.print(
                f"[red]dvc repro ended with exit code {code}[/red]; the same command continues."
            )
            return code
    _summarise(console, params, run_id, time.perf_counter() - started)
    return code


def _is_up_to_date(params: Params) -> bool:
    """Whether no stage would do anything; `sources` always looks, so it looks now."""
    from flows.stages import sources

    sources.write(params.images, params.transfer)
    tree = params.model_dump(mode="json", by_alias=True)
    others = [name for name in read_stages(tree) if name != "sources"]
    return dvc("status", "--quiet", *others, silent=True) == 0


def dvc(*arguments: str, silent: bool = False) -> int:
    """Runs DVC of this Python's environment, with that environment's commands on PATH; returns its
    exit code.

    Ctrl-C reaches DVC and the stage by themselves (they are in this terminal's process group), so
    they are waited for.
    """
    output = subprocess.DEVNULL if silent else None
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments], env=environment(), stdout=output, stderr=output
    )
    interrupted = False
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            interrupted = True
        else:
            return INTERRUPTED if interrupted else code


def _summarise(console: Console, params: Params, run_id: str | None, seconds: float) -> None:
    if run_id is not None and (rows := _stages(params, run_id)):
        table = Table("stage", "status", "seconds", "peak memory", title="Stages that ran")
        for stage, status, took, memory in rows:
            table.add_row(stage, status, f"{took:.1f}", f"{memory:,.0f} MB")
        console.print(table)
    try:
        summary = json.loads((paths.RESULTS / "evaluation.json").read_text())
    except (OSError, ValueError):
        summary = {}
    if summary:
        table = Table(
            "split",
            "architectures",
            "predicted",
            "random",
            title="Accuracy without training (mean ± std)",
        )
        for split, entry in summary.items():
            if "mean" in entry:
                table.add_row(
                    split,
                    f"{entry['architectures']:.0f}",
                    f"{entry['mean']:.1%} ± {entry['std']:.1%}",
                    f"{entry['randinit_mean']:.1%} ± {entry['randinit_std']:.1%}",
                )
        console.print(table)
    store = tracking_uri()
    look = f"  (mlflow ui --backend-store-uri {store})" if store == DEFAULT_URI else ""
    console.print(f"Finished in {seconds / 60:.1f} minutes.", highlight=False)
    console.print(f"  report  {paths.REPORT.resolve()}", soft_wrap=True, highlight=False)
    console.print(f"  MLflow  {store}{look}", soft_wrap=True, highlight=False)
    console.print(
        f"  models  {paths.model(params.base.ghn).resolve()}", soft_wrap=True, highlight=False
    )


def _stages(params: Params, run_id: str) -> list[tuple[str, str, float, float]]:
    """Name, status, seconds and peak memory in MB of the runs below `run_id`, oldest first."""
    mlflow_client = client()
    experiment = mlflow_client.get_experiment_by_name(params.base.experiment)
    if experiment is None:
        return []
    runs = mlflow_client.search_runs(
        [experiment.experiment_id],
        f"tags.mlflow.parentRunId = '{run_id}'",
        order_by=["attributes.start_time ASC"],
    )
    return [
        (
            run.data.tags.get("stage", run.info.run_name),
            run.info.status,
            run.data.metrics.get("seconds", 0.0),
            run.data.metrics.get("peak_memory_mb", 0.0),
        )
        for run in runs
    ]


if __name__ == "__main__":
    sys.exit(main())
