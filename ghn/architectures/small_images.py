"""Stems for small images, by one rule for every family.

A network for images of at most 64 pixels is the one for images four times as large, without the
first factor of four of its downsampling: a 32-pixel image reaches the head of any network as a map
of about 4 x 4. For ResNets this is the customary CIFAR stem (a 3 x 3 convolution of stride 1, no
pooling).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ghn.errors import ConfigError
from ghn.tracing.run import shape_propagation

SMALL_IMAGE_SIZE = 64
"""Largest image, in pixels, for which the stem loses its downsampling."""

SMALL_IMAGE_FACTOR = 4
"""How much less a network downsamples small images."""


def adapt_to_small_images(model: nn.Module, image_size: int) -> None:
    """Removes from `model` the downsampling from `4 * image_size` to `image_size` pixels, in place.

    Every convolution or pooling that sees a map larger than `image_size` when the model is run on
    an image of `4 * image_size` gives up its stride as far as the map is too large. A pooling layer
    becomes the identity. Of a convolution over non-overlapping patches, the patch shrinks with the
    stride; of another, a kernel larger than 3 x 3 becomes 3 x 3, padded by 1, as does a patch of a
    single pixel. A shrunk kernel is the centre of the old one, scaled so that the layer's output
    keeps the variance that its initialisation meant it to have.

    Args:
        model: built for images of `4 * image_size`, on any device.
        image_size: height and width in pixels.

    Raises:
        ConfigError: the model downsamples by other means than strided layers, so there is nothing
            to remove.
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
    size = image_size * SMALL_IMAGE_FACTOR
    try:
        shape_propagation(model, torch.empty(1, 3, size, size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
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
