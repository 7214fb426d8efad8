"""The command line of the library, `ghn`: initialise a network, look at graphs and hypernetworks.

A checkout adds the pipeline's stages, other packages theirs through the entry point group
`ghn.commands`; a wheel, which ships the library alone, names neither. Libraries that take long to
import are imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ghn import names, options
from ghn.errors import GHNError
from ghn.files import check_directory
from ghn.interrupts import interruptible

COMMAND_GROUP = "ghn.commands"
_CHECKOUT = metadata.EntryPoint("pipeline", "flows.commands.stages:register", COMMAND_GROUP)
_DISTRIBUTION = "ghn3-pipeline"
_OURS = ("", "ghn", "datasets", "flows")
"""What is missing of these is a bug."""
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

PIPELINE = (
    *("generate", "validate", "sources", "images", "train", "predict", "evaluate", "finetune"),
    *("transfer", "register", "report", "run", "compare", "params", "mlflow", "experiments"),
    *("graph", "registry", "serve", "stack"),
)
"""Commands that a checkout adds."""

TRACEBACK_VARIABLE = "GHN_TRACEBACK"
"""Set to see the traceback of an error that is otherwise only a message."""


class _Group(TyperGroup):
    """Turns errors that a user can act on into a message and an exit code; bugs keep their
    traceback.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in PIPELINE and self.get_command(ctx, args[0]) is None:
            typer.echo(
                f"ghn: `{args[0]}` is part of the pipeline, which this installation of the library"
                " does not have; clone the repository and `make setup` there",
                err=True,
            )
            raise typer.Exit(2)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            with interruptible(signal.SIGINT):
                return super().invoke(ctx)
        except GHNError as error:
            _fail(error, str(error), error.exit_code)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package in _OURS:
                raise
            _fail(
                error,
                f"this needs {package}, which is not installed; it is among the pipeline's packages"
                " (`pip install -e '.[pipeline]'` in a clone) or one of your own network's",
                2,
            )
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
    head = typer.style("ghn:", fg=typer.colors.RED, bold=True)  # colours in a terminal only
    typer.echo(f"{head} {message}", err=True)
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
    network: options.Network,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="By default NETWORK.safetensors, here."),
    ] = None,
    source: options.Source = None,
    classes: options.Classes = None,
    image_size: options.ImageSize = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of the parameters that are not predicted.")
    ] = 0,
    device: options.DeviceOption = options.Device.cpu,
    dtype: options.DtypeOption = options.Dtype.float32,
) -> None:
    """Predict the parameters of a network and write them as a state dict.

    Parameters that the hypernetwork does not predict keep their standard initialisation and are
    listed.
    """
    initialise(network, out, source, classes, image_size, seed, device, dtype)


def initialise(
    network: str,
    out: Path | None,
    source: str | None,
    classes: int | None,
    image_size: int | None,
    seed: int,
    device: options.Device,
    dtype: options.Dtype,
    images: Any = None,
) -> None:
    """What `ghn init` does; `images` (training images) give the statistics of batch norms."""
    out = out or Path(f"{network.rpartition(':')[2].replace('/', '-')}.safetensors")
    check_directory(out)
    from ghn.initialize import save_initialized

    where = options.torch_device(device)
    kind = None if dtype is options.Dtype.float32 else options.torch_dtype(dtype)
    with options.said_once():
        typer.echo(
            save_initialized(
                network,
                source,
                out,
                classes,
                image_size,
                seed,
                device=where,
                dtype=kind,
                images=images,
            )
        )


@app.command("list")
def list_architectures(
    pattern: Annotated[
        str | None,
        typer.Argument(
            help="As the shell has them, in quotes: 'resnet*'.",
            autocompletion=options.complete_network,
        ),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Only the 74 of paper table 20.")] = False,
    timm: Annotated[bool, typer.Option("--timm", help="Those of timm.")] = False,
    as_json: options.Json = False,
) -> None:
    """List the architectures that can be named."""
    found = names.find(pattern, timm=timm)
    if paper:
        from ghn.architectures import TORCHVISION_74

        found = [name for name in TORCHVISION_74 if name in found]
    for line in [json.dumps(found)] if as_json else found:
        typer.echo(line)


@app.command()
def trace(
    network: options.Network,
    classes: Annotated[int, typer.Option("--classes", min=1)] = 1000,
    image_size: Annotated[
        int, typer.Option("--image-size", min=8, help="Side of the images.")
    ] = 224,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Also write the graph: a picture (.png, .svg, .pdf), .dot or .json.",
        ),
    ] = None,
) -> None:
    """Show what a network's graph is made of, with the statistics of paper table 3."""
    from ghn.graph.describe import describe, write
    from ghn.initialize import trace_architecture

    graph = trace_architecture(network, classes, image_size)
    typer.echo(describe(graph))
    if out is not None:
        write(graph, out)


_Checkpoint = Annotated[
    str | None,
    typer.Argument(
        help="A hypernetwork as --from takes it; by default the one that comes with the package.",
        autocompletion=options.complete_source,
    ),
]


@app.command()
def info(checkpoint: _Checkpoint = None, as_json: options.Json = False) -> None:
    """Say what a hypernetwork is and how it was trained."""
    from ghn.checkpoint import describe

    about = describe(checkpoint)
    if as_json:
        typer.echo(json.dumps(about))
        return
    config, said = about.pop("config"), about.pop("metadata")
    for name, value in (about | config | said).items():
        shown = f"{value:,}" if type(value) is int else value
        typer.echo(f"{name:<18}{shown}")


@app.command()
def convert(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A hypernetwork as --from takes it.", autocompletion=options.complete_source
        ),
    ],
    out: Annotated[Path, typer.Argument(help="NAME.safetensors, or NAME.pt for a pickle.")],
    released: Annotated[
        bool,
        typer.Option("--released", help="Safetensors with the names of released checkpoints."),
    ] = False,
    dtype: options.DtypeOption = options.Dtype.float32,
) -> None:
    """Write a hypernetwork in another format: released ones become ours, ours become released."""
    from ghn.checkpoint import convert as write

    path = write(checkpoint, out, released=released, dtype=options.torch_dtype(dtype))
    typer.echo(f"{path}: {path.stat().st_size:,} bytes")


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
