"""`ghn stack`, `ghn registry`, `ghn serve`: operations. `flows.commands.stages` adds them to `ghn`;
heavy imports are inside.
"""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

stack_app = typer.Typer(
    help="The servers on this machine: PostgreSQL, Prefect, MLflow, workers.", no_args_is_help=True
)


@stack_app.command("up")
def stack_up() -> None:
    """Start what does not run, wait until it answers, and print the addresses (`make up`)."""
    from flows.stack.config import StackConfig
    from flows.stack.stack import up

    config = StackConfig()
    up(config, typer.echo)
    typer.echo(f"\nPrefect     {config.prefect_url}\nMLflow      {config.mlflow_url}")
    typer.echo(f"PostgreSQL  127.0.0.1:{config.postgres_port}\ndata, logs  {config.directory}")
    typer.echo('\nThis shell talks to them after: eval "$(ghn stack env)"')


@stack_app.command("down")
def stack_down() -> None:
    """Stop all servers and what they run; data stays (`make down`)."""
    from flows.stack.config import StackConfig
    from flows.stack.stack import down

    down(StackConfig(), typer.echo)


@stack_app.command("status")
def stack_status() -> None:
    """Say what runs; exit code 1 if anything does not."""
    from flows.stack.config import StackConfig
    from flows.stack.stack import status

    states = status(StackConfig())
    for name, state in states.items():
        typer.echo(f"{name:12} {state}")
    if any(
        not state.startswith("pid") or state.endswith("not answer") for state in states.values()
    ):
        raise typer.Exit(1)


@stack_app.command("env")
def stack_env() -> None:
    """Print the variables that make a shell talk to the stack: eval "$(ghn stack env)"."""
    from flows.stack.config import StackConfig

    for name, value in StackConfig().client_environment().items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@stack_app.command("deploy")
def stack_deploy() -> None:
    """Apply prefect.yaml: deployments, schedules, triggers (`make deploy`)."""
    from flows.stack.config import StackConfig
    from flows.stack.stack import deploy

    for name in deploy(StackConfig()):
        typer.echo(name)


registry_app = typer.Typer(
    help="Versions of hypernetworks in the MLflow registry.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="Registered model.")]


def complete_alias(incomplete: str) -> list[str]:
    """Aliases that the pipeline gives; asking the registry would take seconds."""
    return [name for name in ("@champion", "@challenger") if name.startswith(incomplete)]


@registry_app.command("list")
def registry_list(
    name: Name = "ghn3",
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", help="Only with this tag, as KEY=VALUE (variant=ghn3-t); repeatable."
        ),
    ] = None,
    dvc_hash: Annotated[
        str | None, typer.Option("--hash", help="Only made from, or with, this DVC hash.")
    ] = None,
) -> None:
    """List versions, newest first."""
    from rich.console import Console
    from rich.table import Column, Table

    from flows.registry import lookup
    from ghn.errors import ConfigError

    pairs = [entry.partition("=") for entry in where or []]
    if bad := [key for key, sign, _ in pairs if not sign]:
        raise ConfigError(f"--where {bad[0]}: write KEY=VALUE")
    found = lookup.versions(name, {key: value for key, _, value in pairs})
    if dvc_hash is not None:
        made = {version.version for version in lookup.by_hash(name, dvc_hash)}
        found = [version for version in found if version.version in made]
    if not found:
        typer.echo(f"no such version of {name}")
        raise typer.Exit(1)
    rows = lookup.describe(name, found)
    # fits 80 columns
    table = Table(*(Column(name, overflow="fold") for name in rows[0]), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


@registry_app.command("show")
def registry_show(
    version: Annotated[
        str, typer.Argument(help="A number, or @ALIAS.", autocompletion=complete_alias)
    ] = "@champion",
    name: Name = "ghn3",
) -> None:
    """Show all tags of a version."""
    from flows.registry.lookup import find

    found = find(name, version)
    typer.echo(f"{name} version {found.version}, run {found.run_id}\n{found.description or ''}")
    for key, value in sorted(found.tags.items()):
        typer.echo(f"  {key}: {value}")


@registry_app.command("promote")
def registry_promote(
    version: Annotated[
        str | None, typer.Argument(help="A number, or @ALIAS; by default @challenger.")
    ] = None,
    name: Name = "ghn3",
    force: Annotated[bool, typer.Option("--force", help="Whatever the comparison says.")] = False,
) -> None:
    """Make a version the champion if it is better by more than the noise; exit code 1 if it is
    not.
    """
    from flows.registry.promotion import promote

    decision = promote(name, version, force)
    typer.echo(
        f"version {decision.version} {'is' if decision.promoted else 'is not'} promoted:"
        f" {decision.reason}"
    )
    if not decision.promoted:
        raise typer.Exit(1)


@registry_app.command("rollback")
def registry_rollback(
    reason: Annotated[str, typer.Option("--reason", help="Kept as a tag.")] = "no reason given",
    name: Name = "ghn3",
) -> None:
    """Point @champion back to the version before."""
    from flows.registry.promotion import rollback

    before, now = rollback(name, reason)
    typer.echo(f"@champion of {name}: version {before} -> {now}")


@registry_app.command("webhook")
def registry_webhook(
    url: Annotated[
        str | None, typer.Argument(help="Where MLflow posts to; none removes the webhook.")
    ] = None,
) -> None:
    """Have the MLflow server tell an address whenever an alias moves, such as @champion.

    It signs with the secret in GHN_WEBHOOK_SECRET, if there is one.
    """
    import os

    from flows.registry.webhooks import announce, silence
    from ghn.addresses import without_credentials

    if url is None:
        typer.echo("removed" if silence() else "there was none")
        return
    hook = announce(url, os.environ.get("GHN_WEBHOOK_SECRET"))
    address = without_credentials(hook.url)
    typer.echo(f"MLflow posts to {address} when an alias is set or removed")


def serve(
    model: Annotated[
        str, typer.Argument(help="models:/NAME@ALIAS, or a model's directory.")
    ] = "models:/ghn3@champion",
    host: Annotated[str, typer.Option("--host")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535)] = 5055,
    max_request_bytes: Annotated[int, typer.Option("--max-request-bytes", min=1)] = 1_000_000,
    max_parameters: Annotated[
        int | None,
        typer.Option(
            "--max-parameters", min=1, help="Of a network; by default the model's own limit."
        ),
    ] = None,
) -> None:
    """Serve predictions over HTTP: MLflow's scoring server with a limit on requests."""
    from flows.serving.server import serve as serve_model

    limits = {} if max_parameters is None else {"max_parameters": max_parameters}
    serve_model(model, host, port, max_request_bytes, limits)
