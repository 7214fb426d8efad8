"""`ghn run`: the whole pipeline through DVC, then where everything is.

Exit code: that of `dvc repro`, 130 after Ctrl-C. Everything heavy is imported inside.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.parameters import assignments, complete_field, complete_profile
from flows.settings import paths

if TYPE_CHECKING:
    from mlflow.entities import Run
    from rich.console import Console

    from flows.params import Params

INTERRUPTED = 128 + signal.SIGINT


def complete_stage(incomplete: str) -> list[str]:
    """Stages of dvc.yaml that begin with what was typed."""
    from flows.settings.files import read_yaml

    return [name for name in read_yaml("dvc.yaml")["stages"] if name.startswith(incomplete)]


def run(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STAGE]...",
            help="Stages of dvc.yaml; by default all.",
            autocompletion=complete_stage,
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            help="First write params/PROFILE.yaml into params.yaml.",
            autocompletion=complete_profile,
        ),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set-param",
            "-S",
            metavar="FIELD=VALUE",
            help="First set a field of params.yaml (`ghn params describe`); repeatable.",
            autocompletion=complete_field,
        ),
    ] = None,
    dry: Annotated[
        bool, typer.Option("--dry", help="Only say which stages would run, and why.")
    ] = False,
    dag: Annotated[
        bool, typer.Option("--dag", help="Only draw which stage follows which.")
    ] = False,
) -> None:
    """Bring the pipeline up to date, then say what ran and where everything is (`make run`)."""
    from rich.console import Console

    from flows.params import load_params, set_params, updated
    from ghn.locks import locked

    _check_targets(targets or [])
    new = assignments(values or [])
    if dry or dag:
        _show_plan(bool(profile or new), dag)
        return
    updated(new, profile)  # what is wrong is said before anything is waited for
    console = Console(highlight=False, soft_wrap=True)
    started = time.perf_counter()
    run_id = None
    waiting = partial(console.print, "Another run works in this tree; waiting until it has ended.")
    with locked(paths.TREE_LOCK, on_wait=waiting) as lock:
        # Not earlier: DVC notes parameters as they are when a stage of another run has ended.
        params = set_params(new, profile) if profile or new else load_params()
        if not targets and _is_up_to_date(params):
            console.print("All stages are up to date.")
        else:
            run_id = _reproduce(params, targets or [], console, lock)
    _summarise(console, params, run_id, time.perf_counter() - started)


def _show_plan(changed: bool, drawn: bool) -> None:
    """What would run with params.yaml as it is, or a drawing of the stages."""
    from rich.console import Console
    from rich.table import Table

    from flows.commands.plan import picture, plan
    from flows.params import load_params
    from ghn.errors import ConfigError

    if changed:
        raise ConfigError(
            "--dry and --dag look at params.yaml as it is: leave out --profile and -S"
        )
    params = load_params()
    tree = params.tree()
    if drawn:
        typer.echo(picture(tree))
        return
    _look_at_sources(params)
    table = Table("stage", "reads what they write", "would run", box=None, pad_edge=False)
    for step in plan(tree):
        table.add_row(step.name, ", ".join(step.after), step.why or "no")
    Console(highlight=False).print(table)


def _check_targets(targets: list[str]) -> None:
    """Refuses a name that is no stage, with the nearest ones; DVC would say so after its start."""
    import difflib

    from flows.settings.files import read_yaml
    from ghn.errors import ConfigError

    stages = read_yaml("dvc.yaml")["stages"] if targets else {}
    for target in targets:
        name = target.partition("@")[0]
        if name not in stages and not Path(target).exists() and ":" not in target:
            near = difflib.get_close_matches(name, stages, n=3) or list(stages)
            raise ConfigError(f"dvc.yaml has no stage {target!r}; nearest: {', '.join(near)}")


def _look_at_sources(params: Params) -> None:
    """Does what stage `sources` does, which always looks."""
    from flows.stages import sources

    sources.write(params.base, params.images, params.train, params.finetune, params.transfer)


def _is_up_to_date(params: Params) -> bool:
    """Whether no stage would do anything. Where an output is not there, nobody is asked."""
    from flows.settings.dvcfile import read_stages

    stages = read_stages(params.tree())
    if not all(Path(path).exists() for one in stages.values() for path in one.outputs):
        return False
    _look_at_sources(params)
    return dvc("status", "--quiet", *sorted({*stages} - {"sources"}), silent=True) == 0


def _reproduce(
    params: Params, targets: list[str], console: Console, lock: int | None
) -> str | None:
    """Runs `dvc repro` below a run of MLflow and returns that; ends the command if it fails."""
    from flows.tracking import pipeline_run

    tree, code = params.tree(), INTERRUPTED
    try:
        with pipeline_run("pipeline", tree, params.base.experiment) as run_id:
            if code := dvc("repro", *targets, lock=lock):
                raise (
                    KeyboardInterrupt
                    if code == INTERRUPTED
                    else subprocess.CalledProcessError(code, "dvc repro")
                )
    except KeyboardInterrupt:
        console.print("[yellow]interrupted[/yellow]; the same command goes on from here.")
        raise typer.Exit(code) from None
    except subprocess.CalledProcessError:
        console.print(
            f"[red]dvc repro ended with exit code {code}[/red]; once what it says is mended, the"
            " same command goes on from here."
        )
        raise typer.Exit(code) from None
    return run_id


def dvc(*arguments: str, silent: bool = False, lock: int | None = None) -> int:
    """Runs DVC of this Python's environment, with that environment's commands on PATH; returns its
    exit code.

    Ctrl-C reaches DVC and the stage by themselves (they are in this terminal's process group), so
    they are waited for. DVC goes on holding `lock` should this process be killed.
    """
    from flows.compute.shell import environment

    output = subprocess.DEVNULL if silent else None
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        env=environment(),
        stdout=output,
        stderr=output,
        pass_fds=() if lock is None else (lock,),
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
    from flows.tracking.client import DEFAULT_URI, shown_uri
    from flows.tracking.pipeline import note_results
    from ghn.addresses import first_line

    page = missing = None
    try:
        if run_id is not None:
            page, runs = _find(run_id)
            note_results(run_id)
            _print_stages(console, runs)
    except Exception as error:  # of MLflow or the network: the pipeline is worth more than its log
        missing = first_line(error)
    _print_accuracies(console)
    _print_failures(console)
    store = shown_uri()
    look = f"  (mlflow ui --backend-store-uri {store})" if store == DEFAULT_URI else ""
    here = Path.cwd()  # not resolved: DVC may keep outputs as links into its cache
    console.print(f"Finished in {seconds / 60:.1f} minutes.")
    console.print(f"  report  {here / paths.REPORT}")
    console.print(f"  MLflow  {store}{look}")
    if page is not None:
        console.print(f"          {page}")
    console.print(f"  models  {here / paths.model(params.base.ghn)}")
    if missing is not None:
        told = f"MLflow does not say which stages ran and what the run's page is: {missing}."
        console.print(told, markup=False)


def _find(run_id: str) -> tuple[str, list[Run]]:
    """The page of a run in MLflow, and the runs below it, oldest first. Any exception of MLflow or
    of the network passes through.
    """
    from flows.tracking.client import client, run_page

    mlflow_client = client()
    experiment = mlflow_client.get_run(run_id).info.experiment_id
    below = mlflow_client.search_runs(
        [experiment],
        f"tags.mlflow.parentRunId = '{run_id}'",
        order_by=["attributes.start_time ASC"],
    )
    return run_page(experiment, run_id), list(below)


def _print_stages(console: Console, runs: Sequence[Run]) -> None:
    """Seconds and peak memory of runs."""
    from rich.table import Table

    if not runs:
        return
    table = Table("stage", "status", "seconds", "peak memory", title="Stages that ran")
    for run in runs:
        measured = run.data.metrics
        table.add_row(
            run.data.tags.get("stage", run.info.run_name),
            run.info.status,
            f"{measured.get('seconds', 0.0):.1f}",
            f"{measured.get('peak_memory_mb', 0.0):,.0f} MB",
        )
    console.print(table)


def _print_failures(console: Console) -> None:
    """A line per stage in which networks failed: a stage is green where few enough did."""
    for path in sorted(paths.METRICS.glob("*.json")):
        found = json.loads(path.read_text())
        if failed := found.get("failed"):
            console.print(
                f"[bold red]{path.stem}: {failed} of {found['networks']} networks failed[/];"
                " the end of the report says why;"
                f" dvc repro --force --single-item {path.stem} tries them again"
            )


def _print_accuracies(console: Console) -> None:
    from rich.table import Table

    from flows.words import plus_minus

    try:
        summary = json.loads(paths.EVALUATION_SUMMARY.read_text())
    except (OSError, ValueError):
        return
    title = "Accuracy without training (mean ± std)"
    table = Table("split", "architectures", "predicted", "random", title=title)
    for split, entry in summary.items():
        if "mean" in entry:
            table.add_row(
                split,
                f"{entry['architectures']:.0f}",
                plus_minus(entry["mean"], entry["std"]),
                plus_minus(entry["randinit_mean"], entry["randinit_std"]),
            )
    console.print(table)
