"""Example inputs for a network, made up from its layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ghn.errors import TraceError

BATCH_SIZE = 2
"""More than one, so that a `squeeze` of the batch dimension does no harm."""

N_TOKENS = 16
"""Length of the sequences for a network that begins with an embedding of tokens."""


def default_inputs(model: nn.Module) -> list[Tensor]:
    """Meta tensors that may fit `model`, the likeliest first: images, vectors or token indices.

    The first convolution, linear or embedding layer tells which, and the number of channels. The
    size of images is the network's `image_size`, that of timm's configuration, 299 for Inception,
    or else 224. A network that has such a description but begins in an unusual way (patches cut
    before a linear layer) gets images of three channels.

    Raises:
        TraceError: there is no such layer and no description.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    described, channels, size = _images(model)
    images: list[tuple[int, ...]] = [(BATCH_SIZE, channels, *size)] if described else []
    first = next(
        (m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.Embedding))), None
    )
    if isinstance(first, nn.Conv2d):
        shapes = [(BATCH_SIZE, first.in_channels, *size), *images]
    elif isinstance(first, nn.Linear):
        shapes = [*images, (BATCH_SIZE, first.in_features)]
    elif isinstance(first, nn.Embedding):
        shapes = images
    elif not images:
        raise TraceError(
            f"{type(model).__name__}: cannot tell what its input looks like; pass example_inputs"
        )
    else:
        shapes = images
    inputs = [torch.empty(shape, dtype=dtype, device="meta") for shape in dict.fromkeys(shapes)]
    if isinstance(first, nn.Embedding):
        inputs.append(torch.empty(BATCH_SIZE, N_TOKENS, dtype=torch.int64, device="meta"))
    return inputs


def _images(model: nn.Module) -> tuple[bool, int, tuple[int, int]]:
    """Whether `model` says that it takes images, and their channels, height and width."""
    size: Any = getattr(model, "image_size", None)  # ours, and torchvision's ViTs'
    config = getattr(model, "pretrained_cfg", None)  # timm's
    timm_size = config.get("input_size") if isinstance(config, Mapping) else None
    channels = timm_size[0] if timm_size else 3
    described = size is not None or timm_size is not None
    size = size or (
        timm_size[1:] if timm_size else 299 if type(model).__name__ == "Inception3" else 224
    )
    return described, channels, (size, size) if isinstance(size, int) else (size[-2], size[-1])
