"""Stems for small images, by one rule for every family.

A network for images of at most 64 pixels is the one for images four times as large, without the
first factor of four of its downsampling: a 32-pixel image reaches the head of any network as a map
of about 4 x 4. For ResNets this is the customary CIFAR stem (a 3 x 3 convolution of stride 1, no
pooling). A network that cannot see images of that size (Inception needs 75 pixels, which 16 x 4
are not) is the one for the next power of two that it can see.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from ghn.errors import ConfigError
from ghn.tracing.run import shape_propagation

SMALL_IMAGE_SIZE = 64
"""Largest image, in pixels, for which the stem loses its downsampling."""

SMALL_IMAGE_FACTOR = 4
"""How much less a network downsamples small images."""

_LARGER_FACTORS = (2 * SMALL_IMAGE_FACTOR, 4 * SMALL_IMAGE_FACTOR)
"""What is tried, in this order, where a network cannot see images `SMALL_IMAGE_FACTOR` as large."""


def adapt_to_small_images(model: nn.Module, image_size: int) -> None:
    """Removes from `model` the downsampling from `4 * image_size` to `image_size` pixels, in place.

    Every convolution or pooling that sees a map larger than `image_size` when the model is run on
    an image of `4 * image_size` gives up its stride as far as the map is too large. A pooling layer
    becomes the identity. Of a convolution over non-overlapping patches, the patch shrinks with the
    stride; of another, a kernel larger than 3 x 3 becomes 3 x 3, padded by 1, as does a patch of a
    single pixel. A shrunk kernel is the centre of the old one, scaled so that the layer's output
    keeps the variance that its initialisation meant it to have. The factor is 8 or 16 rather than 4
    for a model that fails on smaller images.

    Args:
        model: built for images of `4 * image_size`, on any device.
        image_size: height and width in pixels.

    Raises:
        ConfigError: the model downsamples by other means than strided layers, so there is nothing
            to remove.
        RuntimeError: the model fails on images of all these sizes (the error is that of the
            smallest), or on those of `image_size` afterwards.
    """
    enlarged, factors = _superfluous(model, image_size)
    if not factors:
        raise ConfigError(
            f"{type(model).__name__}: found no stride to remove for images of {image_size} pixels"
        )
    for name, factor in factors.items():
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Conv2d):
            _reduce_stride(layer, factor)
        else:
            model.set_submodule(name, nn.Identity())
    if enlarged != SMALL_IMAGE_FACTOR:  # convolutions without padding may still leave no map
        shape_propagation(model, torch.empty(1, 3, image_size, image_size, device="meta"))


def _superfluous(model: nn.Module, image_size: int) -> tuple[int, dict[str, int]]:
    """The least enlargement that the model can see, and by how much strides are too large."""
    try:
        return SMALL_IMAGE_FACTOR, _too_large(model, image_size, SMALL_IMAGE_FACTOR)
    except RuntimeError:
        for larger in _LARGER_FACTORS:
            with suppress(RuntimeError):
                return larger, _too_large(model, image_size, larger)
        raise


def _too_large(model: nn.Module, image_size: int, enlarged: int) -> dict[str, int]:
    """For each strided layer that sees a map larger than `image_size`, how many times larger, when
    the model is run on an image `enlarged` times as large.
    """
    factors: dict[str, int] = {}
    names = {module: name for name, module in model.named_modules()}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        size = args[0].shape[-1]
        assert isinstance(module, layers)
        if size > image_size and _side(module.stride) > 1:
            factors[names[module]] = math.ceil(size / image_size)

    layers = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
    hooks = [
        module.register_forward_pre_hook(note) for module in names if isinstance(module, layers)
    ]
    size = image_size * enlarged
    try:
        shape_propagation(model, torch.empty(1, 3, size, size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return factors


def _reduce_stride(conv: nn.Conv2d, factor: int) -> None:
    """Divides the stride of `conv` by up to `factor` and shrinks its kernel accordingly, in
    place.
    """
    stride, kernel = _side(conv.stride), _side(conv.kernel_size)
    new_stride = max(1, stride // factor)
    new_kernel = (
        new_stride
        if kernel == stride and new_stride > 1
        else 3
        if kernel == stride
        else min(kernel, 3)
    )
    conv.stride = (new_stride, new_stride)
    if new_kernel == kernel:
        return
    first = (kernel - new_kernel) // 2
    with torch.no_grad():
        centre = conv.weight[:, :, first : first + new_kernel, first : first + new_kernel] * (
            kernel / new_kernel
        )
    conv.weight = nn.Parameter(centre)
    conv.kernel_size = (new_kernel, new_kernel)
    conv.padding = (1, 1) if new_kernel == 3 else (0, 0)


def _side(size: int | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]
