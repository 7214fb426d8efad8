"""Networks of the experiments: an architecture id, possibly without batch norm, built and
counted.
"""

from __future__ import annotations

from torch import nn

from flows.networks import targets as architectures
from flows.networks.targets import Target, build, target
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
        architecture: an id of `flows.networks.targets`, a name of `ghn.architectures`, either
            followed by `@nobn`.
        num_classes: outputs of the class head.
        image_size: in pixels.
        scalars: put FixUp's scalars where norms were; for ids with `@nobn` only.
    """
    if not architecture.endswith(NO_NORM):
        return build(_target(architecture), num_classes, image_size)
    from ghn.architectures import build as build_named
    from ghn.baselines import without_norm
    from ghn.tracing import trace

    name = architecture.removesuffix(NO_NORM)
    shapes = without_norm(build_named(name, num_classes, image_size, device="meta"), scalars=False)
    return without_norm(build_named(name, num_classes, image_size), scalars=scalars), trace(shapes)


def forward_gmacs(architecture: str, num_classes: int, image_size: int) -> float:
    """Multiply-accumulates of one image's forward pass, in units of 10^9
    (`flows.networks.targets.forward_gmacs`).
    """
    return architectures.forward_gmacs(_target(architecture), num_classes, image_size)


def _target(architecture: str) -> Target:
    return target(architecture.removesuffix(NO_NORM))
