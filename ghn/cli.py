"""The command line of the library, `ghn`: initialise a network, look at its graph.

A checkout adds the pipeline's stages, other packages theirs through the entry point group
`ghn.commands`; a wheel, which ships the library alone, names neither. Libraries that take long to
import are imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import errno
import os
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ghn.errors import ConfigError, GHNError

COMMAND_GROUP = "ghn.commands"
_CHECKOUT = metadata.EntryPoint("pipeline", "flows.commands.stages:register", COMMAND_GROUP)
_DISTRIBUTION = "ghn3-pipeline"
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

TRACEBACK_VARIABLE = "GHN_TRACEBACK"
"""Set to see the traceback of an error that is otherwise only a message."""


class _Group(TyperGroup):
    """Turns errors that a user can act on into a message and an exit code; bugs keep their
    traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except GHNError as error:
            _fail(error, str(error), error.exit_code)
        except KeyboardInterrupt as error:
            _fail(
                error,
                "interrupted; what was finished is kept, and the same command continues",
                _INTERRUPTED,
            )
        except OSError as error:
            if error.errno == errno.EPIPE:  # `ghn list | head`
                raise
            _fail(error, f"{error.filename or 'input/output'}: {error.strerror or error}", 1)


def _fail(error: BaseException, message: str, code: int) -> NoReturn:
    if os.environ.get(TRACEBACK_VARIABLE):
        raise error
    typer.echo(f"ghn: {message}", err=True)
    raise typer.Exit(code) from None


app = typer.Typer(
    name="ghn",
    cls=_Group,
    help="Graph hypernetworks that predict the parameters of neural networks (GHN-3).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ghn {metadata.version(_DISTRIBUTION)}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options of `ghn` itself."""


@app.command()
def init(
    name: Annotated[
        str, typer.Argument(help="A torchvision model or another name from `ghn list`.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The safetensors file to write; by default NAME.safetensors, here."
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help=(
                "The hypernetwork: models:/NAME@ALIAS or models:/NAME/VERSION of an MLflow"
                " registry, a local file or "
                "directory, or a released name such as ghn3xlm16.pt. By default the one that comes"
                " with the package."
            ),
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option("--classes", min=1, help="Classes; by default those of the hypernetwork."),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            min=1,
            help="Side of the images; by default what the hypernetwork was trained on.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of the parameters that are not predicted.")
    ] = 0,
) -> None:
    """Predict the parameters of an architecture and write them as a state dict.

    Parameters that the hypernetwork does not predict keep their standard initialisation and are
    listed.
    """
    from ghn.initialize import save_initialized

    out = out or Path(f"{name.replace('/', '-')}.safetensors")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: the directory {out.parent} does not exist; make it first")
    typer.echo(save_initialized(name, source, out, classes, image_size, seed))


@app.command("list")
def list_architectures(
    paper: Annotated[bool, typer.Option("--paper", help="Only the 74 of paper table 20.")] = False,
) -> None:
    """List the architectures that can be named."""
    from ghn.architectures import TORCHVISION_74, available

    for name in TORCHVISION_74 if paper else available():
        typer.echo(name)


@app.command()
def trace(
    name: Annotated[
        str, typer.Argument(help="A torchvision model or another name from `ghn list`.")
    ],
    classes: Annotated[int, typer.Option("--classes", min=1)] = 1000,
    image_size: Annotated[
        int, typer.Option("--image-size", min=1, help="Side of the images.")
    ] = 224,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Also write the graph: a picture (.png, .svg, .pdf) or .json."
        ),
    ] = None,
) -> None:
    """Show what a network's graph is made of, with the statistics of paper table 3."""
    from ghn.graph.describe import describe, write
    from ghn.initialize import trace_architecture

    graph = trace_architecture(name, classes, image_size)
    typer.echo(describe(graph))
    if out is not None:
        write(graph, out)


def add_commands(target: typer.Typer) -> None:
    """Adds the commands of the checkout, if this is one, and of installed extensions; one whose
    package is absent (a wheel has no `flows`) is left out.
    """
    installed = set(metadata.entry_points(group=COMMAND_GROUP)) - {_CHECKOUT}
    for entry_point in (_CHECKOUT, *sorted(installed, key=lambda found: found.name)):
        try:
            register = entry_point.load()
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] != entry_point.module.split(".")[0]:
                typer.echo(
                    f"ghn: the commands of {entry_point.value} are left out: {error}", err=True
                )
            continue
        register(target)


def main() -> None:
    """Runs the command line. Exit code 0 for success, 1 for bad data, 2 for bad usage or
    parameters, 130 for Ctrl-C.
    """
    add_commands(app)
    app()


if __name__ == "__main__":
    main()
