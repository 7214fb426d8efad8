"""Tiling of decoded tensors to the shapes of parameters: larger ones repeat the decoded block, smaller ones are cut.

Shape legend: G parameters of one group.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

_SMALL = 4096


def tile(w: Tensor, shape: Sequence[int]) -> Tensor:
    """(G, *shape): each tensor of `w` repeated along its dimensions, then cut. Differentiable.

    Args:
        w: (G, ...) decoded tensors with as many dimensions as `shape`, none larger.
        shape: of the parameters.
    """
    if tuple(w.shape[1:]) == tuple(shape):
        return w
    repeats = [-(-size // block) for size, block in zip(shape, w.shape[1:], strict=True)]
    interleaved = [x for pair in zip(repeats, w.shape[1:], strict=True) for x in pair]
    covered = [n * size for n, size in zip(repeats, w.shape[1:], strict=True)]
    spread = w
    for dim in range(len(shape)):
        spread = spread.unsqueeze(1 + 2 * dim)
    tiled = spread.expand(len(w), *interleaved).reshape(len(w), *covered)
    return tiled[(slice(None), *(slice(size) for size in shape))]


def repeats_evenly(block: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether `shape` holds a whole number of blocks, so that sums over a tile are multiples of sums over a block."""
    return all(size % part == 0 for size, part in zip(shape, block, strict=True))


def write_all(targets: Sequence[Tensor], w: Tensor) -> None:
    """Writes the blocks of `w` (G, ...) into G tensors of one shape, as `tile` does."""
    shape = targets[0].shape
    # A call per tensor takes longer than repeating a small block in memory of its own.
    if w.shape[1:] == shape or targets[0].numel() <= _SMALL:
        torch._foreach_copy_(list(targets), list(tile(w, shape).unbind(0)))
        return
    for target, block in zip(targets, w.unbind(0), strict=True):
        write_tiled(target, block)


def write_tiled(target: Tensor, w: Tensor) -> None:
    """Writes one decoded tensor into `target` in place, repeated as `tile` does, with no tensor of the target's size.

    Args:
        target: of any strides, dtype and device.
        w: decoded, with as many dimensions, none larger.
    """
    if target.shape == w.shape:
        target.copy_(w)
        return
    w = w.to(device=target.device, dtype=target.dtype).contiguous()
    if target.is_contiguous() and repeats_evenly(w.shape, target.shape):
        pairs = list(zip(target.shape, w.shape, strict=True))
        blocks = target.view([n for size, block in pairs for n in (size // block, block)])
        blocks.copy_(w.view([n for block in w.shape for n in (1, block)]))
        return
    # Along each dimension: the whole blocks, then what is left.
    spans = []
    for size, block in zip(target.shape, w.shape, strict=True):
        whole = size - size % block
        spans.append([span for span in ((0, whole, block), (whole, size, size - whole)) if span[1] > span[0]])
    for part in itertools.product(*spans):
        destination, source = target, w
        for dim, (start, stop, block) in enumerate(part):
            destination = torch.unflatten(destination.narrow(2 * dim, start, stop - start), 2 * dim, (-1, block))
            source = source.narrow(2 * dim, 0, block).unsqueeze(2 * dim)
        destination.copy_(source.expand_as(destination))
