"""`ghn experiments`: the tables and figures of the paper; heavy imports are inside."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from typing import Annotated

import typer

from ghn import options

experiments_app = typer.Typer(
    help=(
        "Every experiment of the paper: on a laptop (profile laptop) or at its sizes (profile"
        " paper)."
    ),
    no_args_is_help=True,
)

ProfileOption = Annotated[
    str, typer.Option("--profile", help="laptop, paper, or a YAML file of the same form.")
]
Names = Annotated[list[str] | None, typer.Argument(help="Experiments; by default all.")]


@experiments_app.command("list")
def list_experiments(profile: ProfileOption = "laptop", as_json: options.Json = False) -> None:
    """List the experiments of a profile."""
    from flows.experiments.catalogue import load_profile

    entries = load_profile(profile).experiments
    if as_json:
        about = {
            n: {"kind": e.kind, "paper": e.paper, "title": e.title} for n, e in entries.items()
        }
        typer.echo(json.dumps(about))
        return
    for name, entry in entries.items():
        typer.echo(f"{name:<22}{entry.kind:<16}{entry.paper:<32}{entry.title}")


@experiments_app.command()
def plan(
    profile: ProfileOption = "paper",
    csv_file: Annotated[
        str | None, typer.Option("--csv", help="Write every job to this file.")
    ] = None,
    summary: Annotated[bool, typer.Option("--summary", help="Totals only.")] = False,
) -> None:
    """Dry run: list every job with its estimated GPU hours (A100); nothing is computed."""
    from flows.experiments.catalogue import load_profile
    from flows.experiments.cost import plan as plan_jobs

    totals: dict[str, list[float]] = defaultdict(list)
    jobs = list(plan_jobs(load_profile(profile)))
    for job in jobs:
        totals[job.experiment].append(job.gpu_hours)
        if not summary:
            typer.echo(f"{job.experiment:<20}{job.gpu_hours:>12.3f}  {job.job}")
    if csv_file is not None:
        from ghn.files import atomic_path

        with atomic_path(csv_file) as temporary, temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["experiment", "job", "gpu_hours"])
            writer.writerows([job.experiment, job.job, f"{job.gpu_hours:.4f}"] for job in jobs)
    typer.echo(f"{'experiment':<20}{'GPU hours':>12}  jobs")
    for name, hours in totals.items():
        typer.echo(f"{name:<20}{sum(hours):>12.1f}  {len(hours)}")
    typer.echo(f"{'all':<20}{sum(job.gpu_hours for job in jobs):>12.1f}  {len(jobs)}")


@experiments_app.command()
def run(
    names: Names = None,
    profile: ProfileOption = "laptop",
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes; by default those of params.yaml."),
    ] = None,
    alone: Annotated[
        bool,
        typer.Option(
            "--alone", help="What they need is there (DVC sees to it); no hypernetworks, no pages."
        ),
    ] = False,
) -> None:
    """Run experiments, train the hypernetworks that they need first, and write their pages; resumes
    where it was.
    """
    from flows.experiments.pages import write_pages
    from flows.experiments.runner import runner

    work = runner(profile, workers)
    for path in work.run(names or (), alone=alone):
        typer.echo(path)
    if not alone:
        typer.echo(write_pages(work.profile))


@experiments_app.command()
def hypernetwork(
    name: Annotated[str, typer.Argument(help="Of the profile.")], profile: ProfileOption = "laptop"
) -> None:
    """Train one hypernetwork of a profile, or fetch it, into models/NAME; goes on from the last
    checkpoint.
    """
    from flows.experiments.hypernetworks import obtain

    obtain(profile, name)


@experiments_app.command()
def sources(profile: ProfileOption = "laptop") -> None:
    """Look whether the files of the experiments' images changed."""
    from flows.experiments.catalogue import load_profile
    from flows.experiments.sources import write_sources

    typer.echo(write_sources(load_profile(profile)))


@experiments_app.command()
def stages(profile: ProfileOption = "laptop") -> None:
    """Write experiments/dvc.yaml, a stage per hypernetwork and experiment of the profile."""
    from flows.experiments.stages import write_stages

    typer.echo(write_stages(profile))


@experiments_app.command()
def report(profile: ProfileOption = "laptop") -> None:
    """Write the pages of the experiments that have results: reports/experiments/index.html."""
    from flows.experiments.catalogue import load_profile
    from flows.experiments.pages import write_pages

    typer.echo(write_pages(load_profile(profile)))
