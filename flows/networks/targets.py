"""The evaluation architectures: 900 of DeepNets-1M and 74 of torchvision (paper table 3), by id.

An id is `deepnets1m/<split>/<index>` or a torchvision name; `targets` lists them, `build` makes
network and graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flows.settings import paths
from flows.settings.architectures import ArchitecturesConfig
from ghn.errors import UnknownArchitectureError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from datasets.deepnets import Split
    from ghn.graph import Graph

TORCHVISION = "torchvision"
"""The split of the 74 (the paper's PYTORCH)."""

CHANNELS = 32
"""Initial channels C of an evaluation network of DeepNets-1M."""

_MAX_SMALL_IMAGE = 64


@dataclass(frozen=True)
class Target:
    """An evaluation architecture: its id, its split and, in DeepNets-1M, its index there."""

    id: str
    split: str
    index: int | None = None


def targets(config: ArchitecturesConfig, directory: Path = paths.DEEPNETS) -> list[Target]:
    """All architectures that `config` names, DeepNets-1M first.

    Raises:
        UnknownArchitectureError: a torchvision name does not exist.
        GHNError: a split is missing or damaged.
    """
    from ghn.architectures import TORCHVISION_74, available

    chosen: list[Target] = []
    for split in config.splits:
        n = len(open_split(directory, split))
        count = n if config.per_split is None else min(n, config.per_split)
        chosen += [Target(f"deepnets1m/{split}/{index}", split, index) for index in range(count)]
    names: Iterable[str] = TORCHVISION_74 if config.torchvision == "all" else config.torchvision
    if unknown := sorted(set(names) - set(available())):
        raise UnknownArchitectureError(
            f"architectures.torchvision: unknown {', '.join(unknown)}; see `ghn list`"
        )
    return chosen + [Target(name, TORCHVISION) for name in names]


def target(identifier: str) -> Target:
    """The target of an id.

    Raises:
        UnknownArchitectureError: the id has neither form.
    """
    if not identifier.startswith("deepnets1m/"):
        return Target(identifier, TORCHVISION)
    match identifier.split("/"):
        case [_, split, index] if index.isdecimal():
            return Target(identifier, split, int(index))
    raise UnknownArchitectureError(f"{identifier!r} is not of the form deepnets1m/<split>/<index>")


def build(
    target: Target,
    num_classes: int,
    image_size: int,
    device: torch.device | str | None = None,
    directory: Path = paths.DEEPNETS,
) -> tuple[nn.Module, Graph]:
    """The network (randomly initialised, or shapes only on the meta device) and its graph.

    Torchvision models get a small-image stem up to 64 pixels (`ghn.architectures`).
    """
    if target.index is None:
        from ghn.architectures import build as build_torchvision
        from ghn.tracing import trace

        model = build_torchvision(
            target.id, num_classes=num_classes, image_size=image_size, device=device
        )
        shapes = build_torchvision(
            target.id, num_classes=num_classes, image_size=image_size, device="meta"
        )
        return model, trace(shapes)
    from datasets.deepnets import Network

    split = open_split(directory, target.split)
    shape = {
        "channels": channels(target.split, image_size),
        "num_classes": num_classes,
        "image_size": image_size,
    }
    return Network(split[target.index], **shape, device=device), split.graph(target.index, **shape)


def channels(split: str, image_size: int) -> int:
    """C of the evaluation networks of a split of DeepNets-1M; `wide` is four times as wide at small
    images, else twice.

    Design of DeepNets-1M (Knyazev et al., 2021).
    """
    return CHANNELS * ((4 if image_size <= _MAX_SMALL_IMAGE else 2) if split == "wide" else 1)


def gmacs(model: nn.Module, image_size: int) -> float:
    """Multiply-accumulates of one image's forward pass, in units of 10^9; on the meta device
    nothing is computed.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device
    was_training = model.training
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    model.train(was_training)
    return float(counter.get_total_flops()) / 2e9


@lru_cache(maxsize=4096)
def forward_gmacs(
    target: Target, num_classes: int, image_size: int, directory: Path = paths.DEEPNETS
) -> float:
    """Multiply-accumulates of one image's forward pass, in units of 10^9, before anything is built.

    Of a torchvision model counted on tensors without data; of DeepNets-1M in closed form, within a
    quarter.
    """
    if target.index is None:
        from ghn.architectures import build as build_torchvision

        return gmacs(
            build_torchvision(target.id, num_classes, image_size, device="meta"), image_size
        )
    from datasets.deepnets import Scaling
    from datasets.deepnets.space.cost import multiply_adds
    from datasets.deepnets.space.table import ArchitectureTable

    scaling = Scaling(
        channels(target.split, image_size), num_classes=num_classes, image_size=image_size
    )
    row = open_split(directory, target.split).code[target.index : target.index + 1]
    return float(multiply_adds(ArchitectureTable.decode(row), scaling)[0]) / 1e9


def open_split(directory: Path, split: str) -> Split:
    """An open split of the store; once per process, and again if its file changed."""
    path = (directory / f"{split}.h5").absolute()
    status = path.stat() if path.exists() else None
    return _open_split(path.parent, split, status and (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=16)
def _open_split(directory: Path, split: str, _version: tuple[int, int] | None) -> Split:
    from datasets.deepnets import open_split as open_store

    return open_store(directory, split)
