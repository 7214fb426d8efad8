"""Arguments and options of the command line that several commands have: one name for one thing.

Completion looks names up in `ghn.names`, which imports no PyTorch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ghn import names
from ghn.errors import ConfigError

if TYPE_CHECKING:
    import torch


class Device(StrEnum):
    """Where to compute; auto: a GPU if there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Dtype(StrEnum):
    """The floating point type of the tensors in a file."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def torch_device(device: Device) -> str:
    """The device by PyTorch's name.

    Raises:
        ConfigError: there is no GPU that PyTorch can use.
    """
    import torch

    if device is Device.cuda and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no GPU here; leave it out or say cpu")
    if device is Device.auto:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device.value


@contextmanager
def said_once() -> Iterator[None]:
    """Silences the log of warnings of predictions, for commands that print them themselves."""
    logger = logging.getLogger("ghn.predict")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """The type by PyTorch's name."""
    import torch

    found: torch.dtype = getattr(torch, dtype.value)
    return found


def complete_network(incomplete: str) -> list[str]:
    """Networks that begin with what was typed; timm's where that begins with its prefix."""
    timm = incomplete.startswith(names.TIMM_PREFIX[: max(2, len(incomplete))])
    known = names.timm_names() if timm else names.torchvision_names()
    return [name for name in known if name.startswith(incomplete)]


def complete_source(incomplete: str) -> list[str]:
    """Hypernetworks that come with the package."""
    return [name for name in names.packaged() if name.startswith(incomplete)]


NETWORK_HELP = "A network from `ghn list`, timm/NAME, or your own: FILE.py:NAME or MODULE:NAME."

Network = Annotated[
    str, typer.Argument(metavar="NETWORK", help=NETWORK_HELP, autocompletion=complete_network)
]
Source = Annotated[
    str | None,
    typer.Option(
        "--from",
        help=(
            "The hypernetwork: models:/NAME@ALIAS or models:/NAME/VERSION of an MLflow registry, a"
            " local file or directory, or a released name such as ghn3xlm16.pt. By default the one"
            " that comes with the package."
        ),
        autocompletion=complete_source,
    ),
]
Classes = Annotated[
    int | None,
    typer.Option("--classes", min=1, help="Classes; by default those of images or hypernetwork."),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size",
        min=8,
        help="Side of the images; by default what the hypernetwork was trained on.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of every random draw.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="auto: a GPU if there is one.")]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Of the numbers in the file.")]
Json = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]
