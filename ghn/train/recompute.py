"""Activations that are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(network: nn.Module, enabled: bool) -> Iterator[None]:
    """Inside, of each block of the network only the inputs are kept, and what is between them is
    computed again when the backward pass comes there. The gradient is the same, to the bit.

    A network whose class has an attribute `recompute` sees to its blocks itself (those of
    DeepNets-1M do: their cells). Of others, blocks are the modules with modules of their own below
    sequences and lists: the residual blocks of a ResNet, say.
    """
    if not enabled:
        yield
        return
    if hasattr(type(network), "recompute"):
        vars(network)["recompute"] = True
        try:
            yield
        finally:
            del vars(network)["recompute"]
        return
    found = list(dict.fromkeys(blocks(network)))  # one may stand in several places
    for block in found:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in found:
            del block.forward


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """What is computed again at a time, of a network that does not see to it itself."""
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            yield from blocks(child)
        elif next(child.children(), None) is not None and "forward" not in vars(child):
            yield child
