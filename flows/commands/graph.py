"""`ghn trace` of a checkout, which knows DeepNets-1M too, and `ghn graph`: JSON, galleries and the
published format.

`flows.commands.stages` adds these commands to `ghn`; heavy imports are inside.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.settings import paths
from ghn import options

if TYPE_CHECKING:
    from datasets.deepnets import Split
    from ghn.graph import Graph

graph_app = typer.Typer(
    help="Graphs of DeepNets-1M: JSON, galleries, the published format.", no_args_is_help=True
)

_SPLITS = ("train", "val", "test", "wide", "deep", "dense", "bnfree", "search")


def complete_name(incomplete: str) -> list[str]:
    """Networks and splits that begin with what was typed."""
    return [*complete_split(incomplete), *options.complete_network(incomplete)]


def complete_split(incomplete: str) -> list[str]:
    """Published splits that begin with what was typed."""
    return [name for name in _SPLITS if name.startswith(incomplete)]


_Name = Annotated[
    str | None,
    typer.Argument(
        metavar="[NETWORK]",
        help=(
            "A torchvision model, timm/NAME, FILE.py:NAME, deepnets1m/SPLIT/INDEX, or a split (then"
            " with INDEX)."
        ),
        autocompletion=complete_name,
    ),
]
_Index = Annotated[
    int | None, typer.Argument(help="The architecture's number in the split.", min=0)
]
_Args = Annotated[
    str | None,
    typer.Option(
        "--args", help="A JSON file with an architecture's arguments; - for standard input."
    ),
]
_Split = Annotated[
    str | None,
    typer.Option("--split", help="A split of DeepNets-1M.", autocompletion=complete_split),
]
_Number = Annotated[
    int | None, typer.Option("--index", min=0, help="The architecture's number in the split.")
]
_Directory = Annotated[Path, typer.Option("--directory", help="Where the splits are.")]
_Classes = Annotated[
    int | None, typer.Option("--classes", min=1, help="10 in DeepNets-1M, 1000 in torchvision.")
]
_Size = Annotated[
    int | None, typer.Option("--image-size", min=8, help="32 in DeepNets-1M, 224 in torchvision.")
]
_Channels = Annotated[
    int, typer.Option("--channels", min=1, help="Width C of a DeepNets-1M network.")
]


def find_graph(
    name: str | None,
    index: int | None,
    args: str | None,
    split: str | None,
    directory: Path,
    classes: int | None,
    image_size: int | None,
    channels: int,
) -> Graph:
    """The graph that the options of a command name, in exactly one of three ways.

    Args:
        name: a torchvision model, `deepnets1m/<split>/<index>`, or a split, with `index`.
        index: of an architecture in a split.
        args: a file with an architecture's arguments as JSON, or "-".
        split: a split, with `index`.
        directory: where splits are.
        classes: number of classes; None for 10 in DeepNets-1M and 1000 otherwise.
        image_size: in pixels; None for 32 in DeepNets-1M and 224 (299 for inception_v3) otherwise.
        channels: width C of a DeepNets-1M network.

    Raises:
        ConfigError: none or several are given, or the file is not an architecture.
        UnknownArchitectureError: no architecture has that name.
    """
    from ghn.errors import ConfigError, UnknownArchitectureError

    if name is not None and index is not None and split is None:
        name, split = None, name
    if name is not None and name.startswith("deepnets1m/"):
        from flows.networks.targets import target

        found = target(name)
        name, split, index = None, found.split, found.index
    if (name is not None) + (args is not None) + (split is not None) != 1 or (split is None) != (
        index is None
    ):
        raise ConfigError(
            "name one architecture: NAME, --args FILE, or --split SPLIT --index NUMBER"
        )
    if name is None:
        from datasets.deepnets import Architecture, build_graph

        sizes = {"channels": channels, "num_classes": classes or 10, "image_size": image_size or 32}
        if split is not None and index is not None:
            store = _open(directory, split)
            if index >= len(store):
                raise UnknownArchitectureError(
                    f"split {split!r} has architectures 0..{len(store) - 1}, not {index}"
                )
            return store.graph(index, **sizes)
        return build_graph(Architecture.from_json(_read(str(args))), **sizes, name=str(args))
    from ghn.initialize import trace_architecture
    from ghn.names import torchvision_names

    if name in _known(directory) and name not in torchvision_names():
        raise ConfigError(
            f"`{name}` is a split: name an architecture of it, as in `ghn trace {name} 0`"
        )
    size = image_size or (299 if name == "inception_v3" else 224)
    return trace_architecture(name, classes or 1000, size)


def _open(directory: Path, split: str) -> Split:
    """A split of the store; raises ConfigError if none has that name or it was not generated."""
    from datasets.deepnets import open_split
    from ghn.errors import ConfigError

    if split not in (known := _known(directory)):
        raise ConfigError(f"no split is called {split!r}; known: {', '.join(known)}")
    return open_split(directory, split)


def _known(directory: Path) -> list[str]:
    """The published splits, those of params.yaml (where there is one), and those that are there."""
    from flows.params import load_params
    from ghn.errors import ConfigError

    names = dict.fromkeys(_SPLITS)
    with suppress(ConfigError):
        names |= dict.fromkeys(load_params().generate.splits)
    return list(names | dict.fromkeys(sorted(path.stem for path in directory.glob("*.h5"))))


def _read(path: str) -> str:
    from ghn.errors import ConfigError

    try:
        return typer.get_text_stream("stdin").read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--args {path}: cannot be read ({error})") from error


@graph_app.command("export")
def export(
    name: _Name = None,
    index: _Index = None,
    args: _Args = None,
    split: _Split = None,
    number: _Number = None,
    directory: _Directory = paths.DEEPNETS,
    classes: _Classes = None,
    image_size: _Size = None,
    channels: _Channels = 32,
) -> None:
    """Print a graph as one line of JSON: primitive, param, shape and edges."""
    index = index if number is None else number
    graph = find_graph(name, index, args, split, directory, classes, image_size, channels)
    typer.echo(json.dumps(graph.to_json_dict(), separators=(",", ":")))


def trace(
    name: _Name = None,
    index: _Index = None,
    args: _Args = None,
    split: _Split = None,
    number: _Number = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Also write the graph: a picture (.png, .svg, .pdf), .dot or .json.",
        ),
    ] = None,
    labels: Annotated[
        bool | None, typer.Option("--labels/--no-labels", help="Name the nodes of the picture.")
    ] = None,
    directory: _Directory = paths.DEEPNETS,
    classes: _Classes = None,
    image_size: _Size = None,
    channels: _Channels = 32,
) -> None:
    """Show what a network's graph is made of, with the statistics of paper table 3."""
    from ghn.graph.describe import describe, write

    index = index if number is None else number
    graph = find_graph(name, index, args, split, directory, classes, image_size, channels)
    typer.echo(describe(graph))
    if out is not None:
        write(graph, out, labels)


@graph_app.command("gallery")
def gallery(
    split: Annotated[
        str, typer.Argument(help="A split of DeepNets-1M.", autocompletion=complete_split)
    ],
    count: Annotated[int, typer.Option("--count", min=1, help="How many architectures.")] = 24,
    first: Annotated[int, typer.Option("--first", min=0, help="Number of the first one.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Default: reports/gallery_SPLIT.html.")
    ] = None,
    directory: _Directory = paths.DEEPNETS,
) -> None:
    """Write a page with pictures of a split's graphs."""
    from flows.networks.gallery import write_gallery

    path = out or paths.REPORTS / f"gallery_{split}.html"
    store = _open(directory, split)
    write_gallery(store, range(first, min(first + count, len(store))), path)
    typer.echo(str(path))


@graph_app.command("import")
def import_split(
    hdf5: Annotated[
        Path, typer.Argument(help="A published deepnets1m_*.hdf5; its _meta.json beside it.")
    ],
    split: Annotated[str, typer.Option("--split", help="Which split of the file.")],
    directory: _Directory = paths.DEEPNETS,
    force: Annotated[bool, typer.Option("--force", help="Replace a split that is there.")] = False,
) -> None:
    """Read a published file of DeepNets-1M into the store, its known flaws repaired."""
    from datasets.deepnets.published.reader import import_published
    from datasets.deepnets.store.files import paths_of
    from ghn.errors import ConfigError

    if not force and (there := [path for path in paths_of(directory, split) if path.exists()]):
        raise ConfigError(f"{there[0]} exists; --force replaces it")
    imported = import_published(hdf5, directory, split)
    repaired = (
        ", ".join(f"{count} {flaw}" for flaw, count in imported.header.fixes.items() if count)
        or "none"
    )
    typer.echo(
        f"{len(imported)} graphs in {imported.h5_path}; graphs with flaws: {repaired}"
        " (docs/deepnets1m.md)"
    )


@graph_app.command("publish")
def publish(
    split: Annotated[str, typer.Argument(help="A split of the store.")],
    out: Annotated[
        Path, typer.Argument(help="Directory for deepnets1m_SPLIT.hdf5 and its _meta.json.")
    ],
    directory: _Directory = paths.DEEPNETS,
) -> None:
    """Write a split of the store in the published format."""
    from datasets.deepnets.published.writer import export_published

    for path in export_published(_open(directory, split), out):
        typer.echo(str(path))
