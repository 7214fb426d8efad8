"""The evaluation architectures: 900 of DeepNets-1M and 74 of torchvision (paper table 3), by id.

An id is `deepnets1m/<split>/<index>` or a name of `ghn.architectures`, either followed by `@nobn`;
`flows.networks.build` makes network and graph.
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
from ghn.files import file_stamp

if TYPE_CHECKING:
    from datasets.deepnets import Split

TORCHVISION = "torchvision"
"""The split of the 74 (the paper's PYTORCH)."""

NO_NORM = "@nobn"
"""Suffix of an id: the network without its batch norms (paper table 16)."""


@dataclass(frozen=True)
class Target:
    """An evaluation architecture: its id, its split and, in DeepNets-1M, its index there."""

    id: str
    split: str
    index: int | None = None

    @property
    def name(self) -> str:
        """The name of the network, its batch norms apart."""
        return self.id.removesuffix(NO_NORM)

    @property
    def without_norm(self) -> bool:
        """Whether the network is meant without its batch norms."""
        return self.id.endswith(NO_NORM)


def targets(config: ArchitecturesConfig) -> list[Target]:
    """All architectures that `config` names, DeepNets-1M first.

    Raises:
        GHNError: a split is missing or damaged.
    """
    from ghn.architectures import TORCHVISION_74

    chosen: list[Target] = []
    for split in config.splits:
        n = len(open_split(paths.DEEPNETS, split))
        count = n if config.per_split is None else min(n, config.per_split)
        chosen += [Target(f"deepnets1m/{split}/{index}", split, index) for index in range(count)]
    names: Iterable[str] = TORCHVISION_74 if config.torchvision == "all" else config.torchvision
    return chosen + [Target(name, TORCHVISION) for name in names]


def target(identifier: str) -> Target:
    """The target of an id.

    Raises:
        UnknownArchitectureError: the id has neither form.
    """
    if not identifier.startswith("deepnets1m/"):
        return Target(identifier, TORCHVISION)
    match identifier.removesuffix(NO_NORM).split("/"):
        case [_, split, index] if index.isdecimal():
            return Target(identifier, split, int(index))
    raise UnknownArchitectureError(f"{identifier!r} is not of the form deepnets1m/<split>/<index>")


def split_of(identifier: str) -> str:
    """The split that an architecture belongs to."""
    return target(identifier).split


def open_split(directory: Path, split: str) -> Split:
    """An open split of the store; once per process, and again if its file changed."""
    path = (directory / f"{split}.h5").absolute()
    return _open_split(path.parent, split, file_stamp(path) if path.exists() else None)


@lru_cache(maxsize=16)
def _open_split(directory: Path, split: str, _stamp: tuple[int, ...] | None) -> Split:
    from datasets.deepnets import open_split as open_store

    return open_store(directory, split)
