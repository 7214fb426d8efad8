"""Decoding of tensors without gradients, in pieces: what prediction into a network that exists
uses.

Notable:
- nothing of a weight is copied: what a position of the spatial grid or a channel of the block needs
  of it is a matrix whose rows lie at equal distances, which a batched matrix product takes as it
  is;
- all parameters that need a position share its product, and all parameters of a bucket those of its
  block, so that weights (1.8 GB of them in GHN-3-XL) are read once per bucket;
- the scale of a parameter is applied to its features, which are fewer than its numbers.

Shape legend: G parameters of a group, P positions of parameters (rows of a matrix product), N
parameters that share a position, D hidden features, F features of a position, O/I output/input
channels, Y/X height/width of the grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ghn.models.decoding.buckets import Bucket, buckets
from ghn.models.decoding.costs import costs
from ghn.models.decoding.decoder import TensorDecoder, assemble
from ghn.models.decoding.low_rank import LowRankDecoder
from ghn.models.decoding.plan import Group, Kind, Plan
from ghn.models.sending import send, send_list

Box = tuple[tuple[int, int], tuple[int, int]]
"""A window of the grid, as `Group.window` has it: ((y0, y1), (x0, x1))."""

_NARROW = 32
"""With fewer input channels than this, matrices are those of input channels, as wide as there are
output channels.
"""


@torch.no_grad()
def stream(
    decoder: TensorDecoder | LowRankDecoder, h_ND: Tensor, plan: Plan
) -> Iterator[tuple[Group, int | None, Tensor]]:
    """Yields (group, first output channel, (G, ...) scaled blocks of some output channels) until
    all is decoded.

    The first output channel is None where the blocks are whole.
    """
    if isinstance(decoder, LowRankDecoder):
        yield from decoder.stream(h_ND, plan)
        return
    if not plan.tensors:
        return
    decoded = buckets(plan.tensors, decoder.config, costs(h_ND.device), copied=False)
    features_PF = _features(decoder, h_ND, [group for bucket in decoded for group in bucket.groups])
    hidden_PF = F.relu(decoder.hidden(features_PF), inplace=True)
    del features_PF
    for bucket, rows_PF in zip(
        decoded, torch.split(hidden_PF, [b.positions for b in decoded]), strict=True
    ):
        heads = [group for group in bucket.groups if group.kind is Kind.class_weight]
        whole = {
            group: rows_PF.new_empty(len(group) * group.positions, *bucket.channels)
            for group in heads
        }
        counts = [len(group) * group.positions for group in bucket.groups]
        for first, block_POI in _blocks(decoder, rows_PF, bucket):
            end = first + block_POI.shape[1]
            for group, w_POI in zip(bucket.groups, torch.split(block_POI, counts), strict=True):
                if group in whole:  # classes are a function of all output channels
                    whole[group][:, first:end] = w_POI
                elif first < (outputs := group.channels[0]):
                    part_POI = w_POI[:, : outputs - first]
                    yield (
                        group,
                        None if part_POI.shape[1] == outputs else first,
                        assemble(group, part_POI),
                    )
        for group, w_POI in whole.items():
            yield (
                group,
                None,
                decoder.map_to_classes(group, w_POI[:, : group.channels[0]]) * group.scale,
            )


def _blocks(
    decoder: TensorDecoder, hidden_PF: Tensor, bucket: Bucket
) -> Iterator[tuple[int, Tensor]]:
    """Yields (first output channel, (P, O, I) of some output channels), scaled but for class
    weights.
    """
    outputs, inputs = bucket.channels
    positions = len(hidden_PF)
    scale_P = torch.tensor(
        [1.0 if g.kind is Kind.class_weight else g.scale for g in bucket.groups],
        dtype=hidden_PF.dtype,
        device="cpu",
    )
    counts = torch.tensor([len(group) * group.positions for group in bucket.groups], device="cpu")
    scale_P = scale_P.repeat_interleave(counts, output_size=positions)
    scale_P1 = send(scale_P[:, None], hidden_PF.device)
    hidden_PF = hidden_PF * scale_P1
    weight_OIF = decoder.block.weight.view(decoder.channels, decoder.channels, -1)
    bias_OI = decoder.block.bias.view(decoder.channels, decoder.channels)
    if inputs < _NARROW:
        weight_IFO = weight_OIF[:outputs, :inputs].permute(1, 2, 0)
        block_IPO = scale_P1 * bias_OI[:outputs, :inputs].T[:, None]
        yield 0, block_IPO.baddbmm_(hidden_PF.expand(inputs, -1, -1), weight_IFO).permute(1, 2, 0)
        return
    row = positions * inputs * hidden_PF.element_size()
    step = max(1, costs(hidden_PF.device).chunk_bytes // row)
    for first in range(0, outputs, step):
        rows = slice(first, min(first + step, outputs))
        block_OPI = scale_P1 * bias_OI[rows, None, :inputs]
        block_OPI.baddbmm_(hidden_PF.expand(len(block_OPI), -1, -1), weight_OIF[rows, :inputs].mT)
        yield first, block_OPI.transpose(0, 1)


def _features(decoder: TensorDecoder, h_ND: Tensor, groups: Sequence[Group]) -> Tensor:
    """(P, F) features of all positions: by group, then parameter, then position."""
    counts = [len(group) * group.positions for group in groups]
    features_PF = h_ND.new_empty(sum(counts), decoder.features)
    nodes: dict[Box, list[int]] = {}
    rows: dict[Box, list[int]] = {}
    for group, first in zip(groups, itertools.accumulate([0, *counts]), strict=False):
        nodes.setdefault(group.window, []).extend(group.nodes)
        rows.setdefault(group.window, []).extend(
            range(first, first + len(group) * group.positions, group.positions)
        )
    windows = list(nodes)
    h_WND = [h_ND[send_list(nodes[window], h_ND.device)] for window in windows]
    row_WN = [send_list(rows[window], h_ND.device) for window in windows]
    weight_FYXD = decoder.spatial.weight.view(decoder.features, decoder.grid, decoder.grid, -1)
    bias_FYX = decoder.spatial.bias.view(weight_FYXD.shape[:3])
    for y, x0, x1, members in _runs(windows):
        h_ND_ = torch.cat([h_WND[k] for k in members])
        row_N = torch.cat([row_WN[k] + _offset(windows[k], y, x0) for k in members])
        row_XN = row_N + torch.arange(x1 - x0, device=row_N.device)[:, None]
        out_XNF = torch.baddbmm(
            bias_FYX[:, y, x0:x1].T[:, None],
            h_ND_.expand(x1 - x0, -1, -1),
            weight_FYXD[:, y, x0:x1].permute(1, 2, 0),
        )
        features_PF.index_copy_(0, row_XN.flatten(), out_XNF.flatten(0, 1))
    return features_PF.relu_()


def _runs(windows: Sequence[Box]) -> Iterator[tuple[int, int, int, tuple[int, ...]]]:
    """Yields (y, x0, x1, indices of windows): runs of positions along a line of the grid that the
    same windows hold.
    """
    for y in range(max(y1 for (_, y1), _ in windows)):
        here = [k for k, ((y0, y1), _) in enumerate(windows) if y0 <= y < y1]
        for x0, x1 in itertools.pairwise(sorted({x for k in here for x in windows[k][1]})):
            if members := tuple(
                k for k in here if windows[k][1][0] <= x0 and x1 <= windows[k][1][1]
            ):
                yield y, x0, x1, members


def _offset(window: Box, y: int, x: int) -> int:
    """How many positions of a parameter with that window come before (y, x)."""
    (y0, _), (x0, x1) = window
    return (y - y0) * (x1 - x0) + x - x0
