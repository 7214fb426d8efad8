"""`ghn stack`: commands around the servers. `flows.cli` adds them to `ghn`; heavy imports are inside."""

from __future__ import annotations

import shlex

import typer

stack_app = typer.Typer(help="The servers on this machine: PostgreSQL, Prefect, MLflow, workers.", no_args_is_help=True)


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
    if any(not state.startswith("pid") or state.endswith("not answer") for state in states.values()):
        raise typer.Exit(1)


@stack_app.command("env")
def stack_env() -> None:
    """Print the variables that make a shell talk to the stack: eval "$(ghn stack env)"."""
    from flows.stack.config import StackConfig

    for name, value in StackConfig().client_environment().items():
        typer.echo(f"export {name}={shlex.quote(value)}")
