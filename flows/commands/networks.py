"""Your network, your images: `ghn init --images` and `ghn compare`.

Heavy imports are inside.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ghn import options

if TYPE_CHECKING:
    from ghn.compare import Comparison


def complete_images(incomplete: str) -> list[str]:
    """Data sets that begin with what was typed; paths complete themselves in the shell."""
    return [name for name in ("digits", "cifar10", "cifar100") if name.startswith(incomplete)]


_IMAGES_HELP = (
    "A folder with a folder per class, a Parquet file or a folder of such, or a data set's name"
    " below $GHN_DATA_ROOT; `digits` comes along."
)
_Images = Annotated[
    str,
    typer.Option("--images", metavar="DIR", help=_IMAGES_HELP, autocompletion=complete_images),
]
_MaxTest = Annotated[
    int,
    typer.Option("--max-test", min=1, help="At most so many test and so many validation images."),
]
_ValFraction = Annotated[
    float,
    typer.Option("--val-fraction", help="Share of the training images that is held out."),
]
_TestFraction = Annotated[
    float, typer.Option("--test-fraction", help="Test share of images that are not split.")
]


def init(
    network: options.Network,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="By default NETWORK.safetensors, here.")
    ] = None,
    source: options.Source = None,
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            metavar="DIR",
            help=f"For the classes and the statistics of batch norm. {_IMAGES_HELP}",
            autocompletion=complete_images,
        ),
    ] = None,
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
    listed. With --images the file is ready for `model.eval()`.
    """
    from ghn.cli import initialise

    train = None
    if images is not None:
        from datasets.images import load
        from ghn.architectures.own import takes_classes

        size = image_size or _known_size(source)
        train = load(images, split="train", image_size=size)
        if takes_classes(network):
            classes = classes or train.num_classes
    initialise(network, out, source, classes, image_size, seed, device, dtype, train)


def compare(
    network: options.Network,
    images: _Images,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The plot (.png, .svg, .pdf); by default compare.png."),
    ] = None,
    source: options.Source = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of training.")] = 100,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Starts of each kind.")] = 3,
    lr: Annotated[
        list[float] | None,
        typer.Option("--lr", help="Learning rate to try; repeatable. By default 0.1, 0.01, 0.001."),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 64,
    image_size: options.ImageSize = None,
    val_fraction: _ValFraction = 0.1,
    test_fraction: _TestFraction = 0.2,
    max_test: _MaxTest = 1000,
    device: options.DeviceOption = options.Device.auto,
    as_json: options.Json = False,
) -> None:
    """Is a prediction a better start than random parameters, on your images, and by how much?

    Trains the network from predicted, random and orthogonal parameters over the same grid of
    learning rates and seeds. The best rate on validation images meets the test images.
    """
    out = out or Path("compare.png")
    _check_plot(out)
    import ghn
    from flows.commands.accuracy import load_split
    from ghn.architectures.own import find_factory, is_own
    from ghn.architectures.own import network as make
    from ghn.compare import RATES
    from ghn.compare import compare as run
    from ghn.finetune import FinetuneConfig

    if is_own(network):
        find_factory(network)  # a wrong name is said before images are decoded
    where = options.torch_device(device)
    hypernetwork = ghn.from_pretrained(source, device=where)
    size = image_size or hypernetwork.image_size
    train, val, test = (
        load_split(
            images, split, size, val_fraction, test_fraction, None if split == "train" else max_test
        )
        for split in ("train", "val", "test")
    )
    rates = tuple(lr or RATES)
    total, done = 3 * seeds * len(rates), 0

    def progress(kind: str, seed: int, rate: float) -> None:
        nonlocal done
        done += 1
        typer.echo(f"[{done}/{total}] {kind}, seed {seed}, learning rate {rate}", err=True)

    with options.said_once():
        found = run(
            lambda: make(network, train.num_classes, size),
            train,
            val,
            test,
            hypernetwork,
            FinetuneConfig(steps=steps, batch_size=batch_size),
            lrs=rates,
            seeds=seeds,
            name=network.rpartition("/")[2],
            device=where,
            on_training=progress,
        )

    found.draw(out)
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
        return
    typer.echo(
        f"{found.network} on {found.images}: {len(train):,} training, {len(val):,} validation and"
        f" {len(test):,} test images, {train.num_classes} classes"
    )
    typer.echo(found.report)
    _print(found)
    typer.echo(f"{found.verdict()}\nThe curves are in {out}.")


def _known_size(source: str | None) -> int:
    import ghn

    return ghn.from_pretrained(source).image_size


def _check_plot(out: Path) -> None:
    """Refuses a name that no plot can have before an hour of training."""
    from ghn.errors import ConfigError
    from ghn.files import check_directory

    if out.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"{out}: a plot is NAME.png, NAME.svg or NAME.pdf")
    check_directory(out)


def _print(found: Comparison) -> None:
    from statistics import mean, stdev

    from rich.console import Console
    from rich.table import Table

    from flows.words import percent, plus_minus

    table = Table("start", "untrained", f"after {found.steps} steps", "learning rate")
    seeds = len(found.starts[0].trained)
    over = f"mean of {seeds} seeds (± their std)" if seeds > 1 else "one seed"
    table.title = f"Test accuracy, {over}"
    for start in found.starts:
        rates = ", ".join(f"{rate:g}" for rate in sorted(set(start.lr)))
        accuracy = mean(start.trained)
        trained = plus_minus(accuracy, stdev(start.trained)) if seeds > 1 else percent(accuracy)
        table.add_row(start.kind, percent(mean(start.untrained)), trained, rates)
    Console(width=80).print(table)
