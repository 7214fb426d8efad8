"""Tiling repeats and cuts, with and without gradients, in new tensors and in place."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ghn.models.decoding.tiling import repeats_evenly, tile, write_tiled

sizes = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 13)), min_size=1, max_size=4)


def naive(block: np.ndarray, shape: list[int]) -> np.ndarray:
    return block[np.ix_(*(np.arange(n) % size for n, size in zip(shape, block.shape, strict=True)))]


@settings(deadline=None)
@given(sizes)
def test_tile_equals_indexing_modulo_the_block(pairs: list[tuple[int, int]]) -> None:
    shape = [target for _, target in pairs]
    block = torch.randn(
        2, *(min(size, target) for size, target in pairs), dtype=torch.float64, requires_grad=True
    )
    tiled = tile(block, shape)
    expected = np.stack([naive(b, shape) for b in block.detach().numpy()])
    np.testing.assert_array_equal(tiled.detach().numpy(), expected)
    # The gradient of a sum counts how often an entry is repeated.
    (gradient,) = torch.autograd.grad(tiled.sum(), block)
    assert gradient.sum() == tiled.numel()


@settings(deadline=None)
@given(sizes, st.booleans())
def test_write_tiled_equals_tile(pairs: list[tuple[int, int]], transposed: bool) -> None:
    shape = [target for _, target in pairs]
    block = torch.randn([min(size, target) for size, target in pairs])
    target = (
        torch.full(shape[::-1], torch.nan).permute(*range(len(shape) - 1, -1, -1))
        if transposed
        else None
    )
    target = torch.full(shape, torch.nan) if target is None else target
    write_tiled(target, block)
    assert torch.equal(target, tile(block[None], shape)[0])


@given(st.integers(1, 9), st.integers(1, 30), st.integers(1, 4), st.integers(1, 9))
def test_a_block_written_in_parts(period: int, size: int, step: int, width: int) -> None:
    """Parts along the output channels, in any order, make what the whole block makes."""
    block = torch.randn(min(period, size), min(width, 3), 2)
    target = torch.full((size, width, 2), torch.nan)
    for first in reversed(range(0, len(block), step)):
        write_tiled(target, block[first : first + step], (first, len(block)))
    assert torch.equal(target, tile(block[None], target.shape)[0])


def test_write_tiled_casts_and_keeps_memory_format() -> None:
    target = torch.zeros(8, 6, 3, 3, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    block = torch.randn(3, 4, 3, 3)
    write_tiled(target, block)
    assert torch.equal(target, tile(block[None], target.shape)[0].bfloat16())
    assert target.is_contiguous(memory_format=torch.channels_last)


def test_even_repeats() -> None:
    assert repeats_evenly((2, 3), (4, 9))
    assert not repeats_evenly((2, 3), (4, 10))
