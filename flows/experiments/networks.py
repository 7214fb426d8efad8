"""Networks of the experiments: an architecture id, possibly without batch norm, built and counted."""

from __future__ import annotations

from functools import lru_cache

from torch import nn

from flows import paths
from flows.architectures import Target, build, channels, gmacs, open_split, target
from ghn.graph import Graph

NO_NORM = "@nobn"
"""Suffix of an id: the network without its batch norms (paper table 16)."""


def split_of(architecture: str) -> str:
    """The split that an architecture belongs to."""
    return _target(architecture).split


def build_network(
    architecture: str, num_classes: int, image_size: int, *, scalars: bool = False
) -> tuple[nn.Module, Graph]:
    """A network with its standard initialisation, on the CPU, and its graph.

    Args:
        architecture: an id of `flows.architectures`, a name of `ghn.architectures`, either followed by `@nobn`.
        num_classes: outputs of the class head.
        image_size: in pixels.
        scalars: put FixUp's scalars where norms were; for ids with `@nobn` only.
    """
    if not architecture.endswith(NO_NORM):
        return build(_target(architecture), num_classes, image_size)
    from ghn.architectures import build as build_named
    from ghn.baselines import without_norm
    from ghn.graph import trace

    name = architecture.removesuffix(NO_NORM)
    shapes = without_norm(build_named(name, num_classes, image_size, device="meta"), scalars=False)
    return without_norm(build_named(name, num_classes, image_size), scalars=scalars), trace(shapes)


@lru_cache(maxsize=4096)
def forward_gmacs(architecture: str, num_classes: int, image_size: int) -> float:
    """Multiply-accumulates of one image's forward pass, in units of 10^9, before anything is built.

    Of a torchvision model counted on tensors without data; of DeepNets-1M in closed form, within a quarter.
    """
    if (found := _target(architecture)).index is None:
        from ghn.architectures import build as build_named

        return gmacs(build_named(found.id, num_classes, image_size, device="meta"), image_size)
    from datasets.deepnets import Scaling
    from datasets.deepnets.cost import multiply_adds
    from datasets.deepnets.table import ArchitectureTable

    scaling = Scaling(channels(found.split, image_size), num_classes=num_classes, image_size=image_size)
    row = open_split(paths.DEEPNETS, found.split).code[found.index : found.index + 1]
    return float(multiply_adds(ArchitectureTable.decode(row), scaling)[0]) / 1e9


def _target(architecture: str) -> Target:
    return target(architecture.removesuffix(NO_NORM))
