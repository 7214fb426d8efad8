"""Which channel each column of a weight reads where channels are shuffled on the way (ShuffleNet).

A shuffle is a view of channels as a matrix, its transpose, and a view back. From there on halves,
activations, norms and depthwise convolutions leave a channel in its place, and the next dense
convolution reads it. Channels are numbered by the layer that made them: behind a concatenation of
two layers there are two of each number. Before a shuffle nothing is followed, since a column then
reads the channel of its own place.

Shape legend: C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
"""What functions do to channels: called with the record, the result and the arguments, under the
names that PyTorch gives them.
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

    def follow(
        self,
        func: Callable[..., Any],
        result: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        """After a call of PyTorch with these arguments."""
        if (known := RULES.get(func)) is not None:
            known(self, result, *args, **kwargs)

    def numbers(self, tensor: Tensor) -> Numbers:
        """(C,) of the channels of `tensor`."""
        if (known := self.shuffled.get(id(tensor))) is not None:
            return known
        if (parts := self.joined.get(id(tensor))) is not None:
            return np.concatenate([self.numbers(part) for part in parts])
        return np.arange(tensor.shape[1], dtype=np.int32)


@rule(torch.cat, torch.concat, torch.concatenate)
def _join(
    channels: Channels, result: Tensor, tensors: Sequence[Tensor], *_: Any, **__: Any
) -> None:
    if result.dim() < 3:
        return
    shuffled = any(id(tensor) in channels.shuffled for tensor in tensors)
    if result.shape[1] == sum(t.shape[1] for t in tensors if t.dim() > 1):
        channels.joined[id(result)] = tuple(tensors)  # a list may grow
        if shuffled:
            channels.shuffled[id(result)] = channels.numbers(result)
    elif shuffled:  # along another dimension, as of parts of the map
        first, *others = (channels.numbers(tensor) for tensor in tensors)
        if all(np.array_equal(first, other) for other in others):
            channels.shuffled[id(result)] = first


@rule(Tensor.view, Tensor.reshape, torch.reshape, Tensor.flatten, torch.flatten, Tensor.unflatten)
def _view(channels: Channels, result: Tensor, input: Tensor, *_: Any, **__: Any) -> None:
    """Channels become a matrix, or a matrix of them channels."""
    before, after = input.shape, result.shape
    if len(before) > 2 and before[:1] + before[2:] == after[:1] + after[3:]:
        if len(after) == len(before) + 1 and before[1] == after[1] * after[2]:
            matrix = channels.numbers(input).reshape(after[1], after[2])
            channels.matrices[id(result)] = matrix, id(input) in channels.shuffled
    elif len(after) == len(before) - 1 and before[3:] == after[2:]:
        if (known := channels.matrices.get(id(input))) is None:
            return
        matrix, shuffled = known
        if shuffled:
            channels.shuffled[id(result)] = matrix.reshape(-1)


@rule(Tensor.transpose, torch.transpose, Tensor.swapaxes, torch.swapaxes)
def _transpose(channels: Channels, result: Tensor, input: Tensor, *axes: int, **named: int) -> None:
    if id(input) not in channels.matrices:
        return
    order = list(range(input.dim()))
    i, j = (*axes, *(named[name] for name in ("dim0", "dim1", "axis0", "axis1") if name in named))
    order[i], order[j] = order[j], order[i]
    _permute(channels, result, input, order)


@rule(Tensor.permute, torch.permute)
def _permute(channels: Channels, result: Tensor, input: Tensor, *dims: Any, **named: Any) -> None:
    if (known := channels.matrices.get(id(input))) is None:
        return
    order, n = named.get("dims", dims), input.dim()
    order = order[0] if isinstance(order[0], Sequence) else order
    if [axis % n for axis in order] == [0, 2, 1, *range(3, n)]:
        channels.matrices[id(result)] = known[0].T, True


@rule(torch.channel_shuffle, F.channel_shuffle)
def _shuffle(channels: Channels, result: Tensor, input: Tensor, groups: int) -> None:
    channels.shuffled[id(result)] = channels.numbers(input).reshape(groups, -1).T.reshape(-1)


@rule(torch.chunk, Tensor.chunk, torch.split, Tensor.split, torch.split_with_sizes)
def _parts(
    channels: Channels, result: Sequence[Tensor], tensor: Any = None, *_: Any, **named: Any
) -> None:
    """`torch.split` calls `tensor` what others call `input`."""
    known = channels.shuffled.get(id(named.get("input", tensor)))
    if known is None:
        return
    first = 0
    for part in result:
        n = part.shape[1]
        # a part along another dimension has all channels
        channels.shuffled[id(part)] = known if n == len(known) else known[first : first + n]
        first += n


@rule(Tensor.__getitem__)
def _slice(channels: Channels, result: Tensor, input: Tensor, index: Any) -> None:
    """Plain slices, which leave every dimension there."""
    known = channels.shuffled.get(id(input))
    parts = index if isinstance(index, tuple) else (index,)
    if known is None or not all(part is ... or isinstance(part, slice) for part in parts):
        return
    if result.numel():
        places = np.broadcast_to(known.reshape(-1, *[1] * (input.dim() - 2)), input.shape)
        channels.shuffled[id(result)] = places[index].reshape(*result.shape[:2], -1)[0, :, 0]


@rule(
    Tensor.contiguous, Tensor.clone, F.batch_norm, F.relu, F.relu6, F.hardtanh, F.leaky_relu,
    F.silu, F.hardswish, F.gelu, F.dropout, F.avg_pool2d, F.max_pool2d, torch.max_pool2d,
    torch.relu, Tensor.relu, torch.relu_, Tensor.relu_,
)  # fmt: skip
def _keep(channels: Channels, result: Tensor, input: Tensor, *_: Any, **__: Any) -> None:
    if (known := channels.shuffled.get(id(input))) is not None:
        channels.shuffled[id(result)] = known
    elif (matrix := channels.matrices.get(id(input))) is not None:
        channels.matrices[id(result)] = matrix


@rule(torch.conv2d)
def _convolution(
    channels: Channels, result: Tensor, input: Tensor, weight: Tensor, *_: Any, **__: Any
) -> None:
    known = channels.shuffled.get(id(input))
    if known is None:
        return
    if weight.shape[1] == 1 and len(weight) == len(known):  # depthwise
        channels.shuffled[id(result)] = known
    elif weight.shape[1] == len(known) and (name := channels.param(weight)):
        channels.columns[name] = known
