"""Example inputs for a network, made up from its layers."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ghn.errors import TraceError

Layer = TypeVar("Layer", bound=nn.Module)

BATCH_SIZE = 2
"""More than one, so that a `squeeze` of the batch dimension does no harm."""

N_TOKENS = 16
"""Length of the sequences for a network that begins with an embedding of tokens."""


SIZES = (32, 64, 28)
"""Sides of images that are tried last, in pixels."""


def default_inputs(model: nn.Module, image_size: int | None = None) -> list[Tensor]:
    """Meta tensors that may fit `model`, the likeliest first: images, vectors or token indices.

    The first convolution, linear or embedding layer tells which, and the number of channels. The
    size of images is the network's own (`own_image_size`), or else `image_size`, 224, and a few
    small ones. A network that has such a description but begins in an unusual way (patches cut
    before a linear layer) gets images of three channels. Where the first layer is linear and there
    are convolutions too, it may be a head that is made before them: images follow vectors.

    Args:
        model: a network.
        image_size: side of the images to try first where the network does not say.

    Raises:
        TraceError: there is no such layer and no description.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    channels, size = _description(model)
    described: list[tuple[int, ...]] = [(BATCH_SIZE, channels, *size)] if size else []
    first = _first(model, nn.Conv2d, nn.Linear, nn.Embedding)
    convolution = _first(model, nn.Conv2d)
    images: list[tuple[int, ...]] = []
    if convolution is not None:
        sides = [image_size] if image_size else []
        guesses = [(side, side) for side in (*sides, 224, *SIZES)]
        sizes = [size, *guesses] if size else guesses
        images = [(BATCH_SIZE, convolution.in_channels, *pixels) for pixels in sizes]
    if isinstance(first, nn.Conv2d):
        shapes = images + described
    elif isinstance(first, nn.Linear):
        shapes = [*described, (BATCH_SIZE, first.in_features), *images]
    elif first is not None or described:
        shapes = described
    else:
        raise TraceError(
            f"{type(model).__name__}: cannot tell what its input looks like; pass example_inputs"
        )
    inputs = [torch.empty(shape, dtype=dtype, device="meta") for shape in dict.fromkeys(shapes)]
    if isinstance(first, nn.Embedding):
        inputs.append(torch.empty(BATCH_SIZE, N_TOKENS, dtype=torch.int64, device="meta"))
    return inputs


def image_channels(model: nn.Module) -> int:
    """Channels of the images that `model` takes: those of its first convolution, or else those
    that it says.
    """
    convolution = _first(model, nn.Conv2d)
    return _description(model)[0] if convolution is None else convolution.in_channels


def _first(model: nn.Module, *kinds: type[Layer]) -> Layer | None:
    """The first layer of these kinds, in the order in which the network made them."""
    return next((module for module in model.modules() if isinstance(module, kinds)), None)


def own_image_size(model: nn.Module) -> int | None:
    """The shorter side of the images that a network says it takes, if it says so.

    That is its `image_size` (ours, and torchvision's ViTs'), that of timm's configuration, or 299
    for Inception.
    """
    size = _description(model)[1]
    return None if size is None else min(size)


def _description(model: nn.Module) -> tuple[int, tuple[int, int] | None]:
    """Channels, and height and width of its images if `model` says what it takes."""
    size = _size(getattr(model, "image_size", None))
    config = getattr(model, "pretrained_cfg", None)  # timm's
    timm_size: Any = config.get("input_size") if isinstance(config, Mapping) else None
    known = isinstance(timm_size, Sequence) and len(timm_size) == 3
    channels = timm_size[0] if known else 3
    if size is None and known:
        size = _size(timm_size)
    if size is None and type(model).__name__ == "Inception3":
        size = (299, 299)
    return channels, size


def _size(said: Any) -> tuple[int, int] | None:
    """Height and width, of an integer of any type or of a sequence that ends with them; None where
    an attribute of that name is something else.
    """
    with suppress(TypeError, ValueError, RuntimeError):  # the last of tensors without values
        sides = [operator.index(side) for side in said] if _is_sequence(said) else []
        height, width = sides[-2:] or [operator.index(said)] * 2
        if min(height, width) > 0:
            return height, width
    return None


def _is_sequence(said: Any) -> bool:
    return isinstance(said, Sequence) or getattr(said, "ndim", 0) > 0
