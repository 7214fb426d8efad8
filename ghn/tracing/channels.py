"""Which channel each column of a weight reads where channels are shuffled on the way (ShuffleNet).

A shuffle is a view of channels as a matrix, its transpose, and a view back. From there on halves,
activations, norms and depthwise convolutions leave a channel in its place, and the next dense
convolution reads it. Channels are numbered by the layer that made them: behind a concatenation of
two layers there are two of each number. Before a shuffle nothing is followed, since a column then
reads the channel of its own place.

Shape legend: C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ghn.tracing.rules import Rules

Numbers = NDArray[np.int32]
"""(C,) numbers of channels."""

Rule = Callable[..., None]

RULES: Rules[Rule] = Rules()
"""What functions do to channels: called with the record, the result and the positional arguments.
"""
rule = RULES.rule


class Channels:
    """Follows the channels of one forward pass.

    Args:
        param: gives the name of a parameter, "" for other tensors.

    Attributes:
        columns: for each parameter that reads shuffled channels the number that each column reads.
    """

    def __init__(self, param: Callable[[Tensor], str]) -> None:
        self.columns: dict[str, Numbers] = {}
        self.param = param
        self.shuffled: dict[int, Numbers] = {}  # by the identity of the tensor
        self.joined: dict[int, Sequence[Tensor]] = {}  # what a concatenation is of
        self.matrices: dict[int, tuple[Numbers, bool]] = {}  # and whether it is shuffled

    def follow(self, func: Callable[..., Any], result: Any, args: tuple[Any, ...]) -> None:
        """After a call of PyTorch with these positional arguments."""
        if args and (known := RULES.get(func)) is not None:
            known(self, result, *args)

    def numbers(self, tensor: Tensor) -> Numbers:
        """(C,) of the channels of `tensor`."""
        if (known := self.shuffled.get(id(tensor))) is not None:
            return known
        if (parts := self.joined.get(id(tensor))) is not None:
            return np.concatenate([self.numbers(part) for part in parts])
        return np.arange(tensor.shape[1], dtype=np.int32)


@rule(torch.cat, torch.concat, torch.concatenate)
def _join(channels: Channels, result: Tensor, tensors: Sequence[Tensor], *_: Any) -> None:
    if result.dim() > 2 and result.shape[1] == sum(t.shape[1] for t in tensors if t.dim() > 1):
        channels.joined[id(result)] = tensors
        if any(id(tensor) in channels.shuffled for tensor in tensors):
            channels.shuffled[id(result)] = channels.numbers(result)


@rule(Tensor.view, Tensor.reshape, torch.reshape, Tensor.flatten, torch.flatten, Tensor.unflatten)
def _view(channels: Channels, result: Tensor, of: Tensor, *_: Any) -> None:
    """Channels become a matrix, or a matrix of them channels."""
    before, after = of.shape, result.shape
    if len(before) > 2 and before[:1] + before[2:] == after[:1] + after[3:]:
        if len(after) == len(before) + 1 and before[1] == after[1] * after[2]:
            matrix = channels.numbers(of).reshape(after[1], after[2])
            channels.matrices[id(result)] = matrix, id(of) in channels.shuffled
    elif len(after) == len(before) - 1 and before[3:] == after[2:] and id(of) in channels.matrices:
        matrix, shuffled = channels.matrices[id(of)]
        if shuffled:
            channels.shuffled[id(result)] = matrix.reshape(-1)


@rule(Tensor.transpose, torch.transpose, Tensor.permute, torch.permute, Tensor.swapaxes)
def _transpose(channels: Channels, result: Tensor, of: Tensor, *axes: Any) -> None:
    if (known := channels.matrices.get(id(of))) is None:
        return
    order = list(range(of.dim()))
    if len(axes) == 2:
        i, j = axes
        order[i], order[j] = order[j], order[i]
    else:
        order = list(axes[0] if len(axes) == 1 else axes)
    if order == [0, 2, 1, *range(3, of.dim())]:
        channels.matrices[id(result)] = known[0].T, True


@rule(torch.channel_shuffle, F.channel_shuffle)
def _shuffle(channels: Channels, result: Tensor, of: Tensor, groups: int) -> None:
    channels.shuffled[id(result)] = channels.numbers(of).reshape(groups, -1).T.reshape(-1)


@rule(torch.chunk, Tensor.chunk, torch.split, Tensor.split, torch.split_with_sizes)
def _parts(channels: Channels, result: Sequence[Tensor], of: Tensor, *_: Any) -> None:
    if (known := channels.shuffled.get(id(of))) is None:
        return
    first = 0
    for part in result:
        channels.shuffled[id(part)] = known[first : first + part.shape[1]]
        first += part.shape[1]


@rule(
    Tensor.contiguous, Tensor.clone, F.batch_norm, F.relu, F.relu6, F.hardtanh, F.leaky_relu,
    F.silu, F.hardswish, F.gelu, F.dropout, F.avg_pool2d, F.max_pool2d, torch.max_pool2d,
    torch.relu, Tensor.relu, torch.relu_, Tensor.relu_,
)  # fmt: skip
def _keep(channels: Channels, result: Tensor, of: Tensor, *_: Any) -> None:
    if (known := channels.shuffled.get(id(of))) is not None:
        channels.shuffled[id(result)] = known
    elif (matrix := channels.matrices.get(id(of))) is not None:
        channels.matrices[id(result)] = matrix


@rule(torch.conv2d)
def _convolution(
    channels: Channels, result: Tensor, of: Tensor, weight: Tensor | None = None, *_: Any
) -> None:
    known = channels.shuffled.get(id(of))
    if known is None or weight is None:
        return
    if weight.shape[1] == 1 and len(weight) == len(known):  # depthwise
        channels.shuffled[id(result)] = known
    elif weight.shape[1] == len(known) and (name := channels.param(weight)):
        channels.columns[name] = known
