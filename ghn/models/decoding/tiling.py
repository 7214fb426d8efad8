"""Tiling of decoded tensors to the shapes of parameters: larger ones repeat the decoded block,
smaller ones are cut.

Shape legend: G parameters of one group.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ghn.models.decoding.costs import costs


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
    spread = w.view(len(w), *(x for size in w.shape[1:] for x in (1, size)))
    tiled = spread.expand(len(w), *interleaved).reshape(len(w), *covered)
    return tiled[(slice(None), *(slice(size) for size in shape))]


def repeats_evenly(block: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether `shape` holds a whole number of blocks, so that sums over a tile are multiples of
    sums over a block.
    """
    return all(size % part == 0 for size, part in zip(shape, block, strict=True))


def write_all(targets: Sequence[Tensor], w: Tensor, part_of: tuple[int, int] | None = None) -> None:
    """Writes the blocks of `w` (G, ...) into G tensors of one shape, as `write_tiled` does."""
    shape = targets[0].shape
    # A call per tensor takes longer than repeating a small block in memory of its own.
    of_device, n = costs(w.device), targets[0].numel()
    small = n <= of_device.small and len(targets) * n * w.element_size() <= of_device.chunk_bytes
    if part_of is None and (w.shape[1:] == shape or small):
        torch._foreach_copy_(list(targets), list(tile(w, shape).unbind(0)))
        return
    for target, block in zip(targets, w.unbind(0), strict=True):
        write_tiled(target, block, part_of)


def write_tiled(target: Tensor, w: Tensor, part_of: tuple[int, int] | None = None) -> None:
    """Writes one decoded tensor into `target` in place, repeated as `tile` does, with no tensor of
    the target's size.

    Args:
        target: of any strides, dtype and device.
        w: decoded, with as many dimensions, none larger.
        part_of: if `w` is only a part of the block along dimension 0: where it begins, and the size
            of the block.
    """
    if target.shape == w.shape:
        target.copy_(w)
        return
    w = w.to(device=target.device, dtype=target.dtype).contiguous()
    # Along each dimension: the whole blocks, then what is left. Each is a view of the target that
    # `w` is expanded to.
    first, period = part_of or (0, w.shape[0])
    size = target.shape[0]
    whole = size - size % period
    views = []
    if whole:
        blocks = target[:whole].unflatten(0, (-1, period))  # type: ignore[no-untyped-call]
        views.append((blocks.narrow(1, first, w.shape[0]), w[None]))
    if (rest := min(w.shape[0], size - whole - first)) > 0:
        views.append((target[None, whole + first : whole + first + rest], w[None, :rest]))
    dim = 2
    for size, block in zip(target.shape[1:], w.shape[1:], strict=True):
        if size == block:
            dim += 1
            continue
        whole = size - size % block
        split: list[tuple[Tensor, Tensor]] = []
        for part, source in views:
            if whole:
                split.append(
                    (part.narrow(dim, 0, whole).unflatten(dim, (-1, block)), source.unsqueeze(dim))
                )
            if rest := size - whole:
                split.append(
                    (
                        part.narrow(dim, whole, rest).unsqueeze(dim),
                        source.narrow(dim, 0, rest).unsqueeze(dim),
                    )
                )
        views, dim = split, dim + 2
    for part, source in views:
        part.copy_(source)
