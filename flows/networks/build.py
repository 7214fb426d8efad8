"""Networks of evaluation architectures, built and counted."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from flows.networks.targets import Target, open_split, target
from flows.settings import paths
from ghn.errors import UnknownArchitectureError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ghn.graph import Graph

CHANNELS = 32
"""Initial channels C of an evaluation network of DeepNets-1M."""

_MAX_SMALL_IMAGE = 64


def build_network(
    architecture: Target | str,
    num_classes: int,
    image_size: int,
    device: torch.device | str | None = None,
    *,
    scalars: bool = False,
) -> tuple[nn.Module, Graph]:
    """The network (randomly initialised, or shapes only on the meta device) and its graph.

    Torchvision models get a small-image stem up to 64 pixels (`ghn.architectures`).

    Args:
        architecture: a target or its id.
        num_classes: outputs of the class head.
        image_size: in pixels.
        device: where to make the parameters; by default the CPU.
        scalars: put FixUp's scalars where norms were; for ids with `@nobn` only.

    Raises:
        UnknownArchitectureError: there is no such architecture.
        GHNError: its split is missing or damaged.
    """
    chosen = _target(architecture)
    if chosen.index is None:
        return _named(chosen, num_classes, image_size, device, scalars)
    if chosen.without_norm:
        raise UnknownArchitectureError(
            f"{chosen.id}: architectures of DeepNets-1M have no variant without batch norm; the"
            " split bnfree holds such networks"
        )
    from datasets.deepnets import Network

    split = open_split(paths.DEEPNETS, chosen.split)
    shape = {
        "channels": channels(chosen.split, image_size),
        "num_classes": num_classes,
        "image_size": image_size,
    }
    return Network(split[chosen.index], **shape, device=device), split.graph(chosen.index, **shape)


def _named(
    chosen: Target,
    num_classes: int,
    image_size: int,
    device: torch.device | str | None,
    scalars: bool,
) -> tuple[nn.Module, Graph]:
    """A network of `ghn.architectures` and its graph."""
    from ghn.architectures import build
    from ghn.tracing import trace

    model = build(chosen.name, num_classes=num_classes, image_size=image_size, device=device)
    shapes = build(chosen.name, num_classes=num_classes, image_size=image_size, device="meta")
    if chosen.without_norm:
        from ghn.baselines import without_norm

        model = without_norm(model, scalars=scalars)
        shapes = without_norm(shapes, scalars=False)
    return model, trace(shapes)


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


def forward_gmacs(architecture: Target | str, num_classes: int, image_size: int) -> float:
    """Multiply-accumulates of one image's forward pass, in units of 10^9, before anything is built.

    Of a torchvision model counted on tensors without data; of DeepNets-1M in closed form, within a
    quarter.
    """
    return _forward_gmacs(_target(architecture), num_classes, image_size)


@lru_cache(maxsize=4096)
def _forward_gmacs(chosen: Target, num_classes: int, image_size: int) -> float:
    if chosen.index is None:
        from ghn.architectures import build

        return gmacs(build(chosen.name, num_classes, image_size, device="meta"), image_size)
    from datasets.deepnets import Scaling
    from datasets.deepnets.space.cost import multiply_adds
    from datasets.deepnets.space.table import ArchitectureTable

    scaling = Scaling(
        channels(chosen.split, image_size), num_classes=num_classes, image_size=image_size
    )
    row = open_split(paths.DEEPNETS, chosen.split).code[chosen.index : chosen.index + 1]
    return float(multiply_adds(ArchitectureTable.decode(row), scaling)[0]) / 1e9


def _target(architecture: Target | str) -> Target:
    return target(architecture) if isinstance(architecture, str) else architecture
