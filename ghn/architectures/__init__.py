"""Networks by name: torchvision's, the paper's variants of them, timm's.

Names, besides torchvision's own:

- `vit_*_gap`: the class token replaced by the mean over tokens (paper section A.3.4, "no
  distribution shift");
- `efficientnet_*_relu`: SiLU replaced by ReLU (the same section);
- `resnet1000`, a ResNet of 1000 layers and 406M parameters, and `vit_1_2b`, a ViT with pooled
  tokens and 1.2 billion (section A.3.3; the paper gives the sizes, the arrangement in blocks is
  ours);
- `little_*`, narrow and shallow relatives of torchvision's families, to train hypernetworks on
  (`ghn.architectures.little`);
- `timm/<name>`: any network of timm, where it is installed.

Images of at most 64 pixels get the small-image stem of `ghn.architectures.small_images`, by one
rule for all.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, TypeVar

import torch
import torchvision
from torch import nn

from ghn.architectures.small_images import (
    SMALL_IMAGE_FACTOR,
    SMALL_IMAGE_SIZE,
    adapt_to_small_images,
)
from ghn.architectures.variants import VARIANTS, VIT_SIZES, vision_transformer
from ghn.errors import ConfigError, UnknownArchitectureError
from ghn.meta import without_values

__all__ = [
    "SMALL_IMAGE_SIZE",
    "TORCHVISION_74",
    "adapt_to_small_images",
    "available",
    "build",
    "default_image_size",
]

T = TypeVar("T")

TORCHVISION_74: tuple[str, ...] = (
    "alexnet", "squeezenet1_0", "squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small",
    "mnasnet0_5",
    "vgg11", "shufflenet_v2_x1_0", "resnet18", "googlenet", "vgg13", "vgg11_bn", "mnasnet0_75",
    "vgg13_bn",
    "vgg16", "mobilenet_v2", "vgg19", "regnet_x_400mf", "shufflenet_v2_x1_5", "resnet34",
    "vgg16_bn",
    "mnasnet1_0", "mobilenet_v3_large", "regnet_y_400mf", "vgg19_bn", "densenet121",
    "regnet_x_800mf",
    "densenet169", "vit_b_32", "resnet50", "shufflenet_v2_x2_0", "regnet_y_800mf", "mnasnet1_3",
    "densenet201",
    "vit_l_32", "regnet_x_1_6gf", "densenet161", "inception_v3", "resnet101", "resnext50_32x4d",
    "efficientnet_b0", "regnet_y_1_6gf", "resnet152", "regnet_x_3_2gf", "wide_resnet50_2",
    "efficientnet_b1",
    "wide_resnet101_2", "regnet_y_3_2gf", "resnext101_32x8d", "regnet_x_8gf", "vit_l_16",
    "regnet_y_8gf",
    "regnet_x_16gf", "regnet_y_16gf", "efficientnet_b2", "regnet_x_32gf", "regnet_y_32gf",
    "vit_b_16", "swin_t",
    "efficientnet_b3", "convnext_tiny", "swin_s", "resnext101_64x4d", "efficientnet_b4",
    "efficientnet_b5",
    "swin_b", "convnext_small", "efficientnet_b6", "convnext_base", "efficientnet_b7",
    "efficientnet_v2_s",
    "convnext_large", "efficientnet_v2_m", "efficientnet_v2_l",
)  # fmt: skip
"""The PyTorch split of the paper, in the order of its table 20."""


@lru_cache
def available() -> tuple[str, ...]:
    """All names that `build` takes without a prefix: torchvision's classification models and the
    variants.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    return (*names, *sorted((VARIANTS.keys() | VIT_SIZES.keys()) - set(names)))


def default_image_size(name: str) -> int:
    """The image size, in pixels, that `name` is traced and evaluated at: 299 for Inception, else
    224.
    """
    return 299 if name.startswith("inception") else 224


def build(
    name: str,
    num_classes: int = 1000,
    image_size: int = 224,
    device: torch.device | str | None = None,
) -> nn.Module:
    """Builds a network with its standard initialisation, in train mode, as its library does.

    Args:
        name: one of `available()`, or `timm/<name>`.
        num_classes: outputs of the class head.
        image_size: height and width, in pixels, of the images it will see. 224 leaves the network
            as its library makes it (Inception takes 299 then, some of timm's another size). At most
            64 gives it a small-image stem and leaves out the auxiliary heads of GoogLeNet and
            Inception, which need larger maps; networks of timm are not changed. The size is noted
            in the network's `image_size`.
        device: where the parameters go; "meta" initialises none and takes a tenth of a second.

    Raises:
        UnknownArchitectureError: no such name; the message has the nearest ones.
        ConfigError: `num_classes` or `image_size` is out of range for the network.
    """
    if num_classes < 1:
        raise ConfigError(f"num_classes={num_classes}: a network needs at least one class")
    if image_size < 8:
        raise ConfigError(f"image_size={image_size}: images need at least 8 pixels on a side")
    constructor = _constructor(name)
    device = torch.device(device or torch.get_default_device())
    try:
        model = construct(
            partial(constructor, num_classes=num_classes, image_size=image_size), device
        )
    except (RuntimeError, ValueError, AssertionError) as error:
        if image_size == 224:
            raise
        raise ConfigError(
            f"{name} cannot be built for images of {image_size} pixels: {error}"
        ) from error
    # timm's networks describe their input themselves
    if image_size != 224 or not name.startswith("timm/"):
        model.image_size = default_image_size(name) if image_size == 224 else image_size  # type: ignore[assignment]
    return model.to(device)


def construct(constructor: Callable[[], T], device: torch.device) -> T:
    """What `constructor` makes, with its parameters on `device`, or some of them on the CPU where
    that is the meta device.
    """
    if device.type == "meta":
        # A constructor that computes with its parameters (some of timm's) needs them real, and
        # is slower.
        with suppress(RuntimeError), without_values():
            return constructor()
        device = torch.device("cpu")
    with device:
        return constructor()


def _constructor(name: str) -> Callable[..., nn.Module]:
    if name.startswith("timm/"):
        return partial(_timm, _timm_name(name.removeprefix("timm/")))
    if name in VIT_SIZES:
        return partial(vision_transformer, name)
    if name in VARIANTS:
        return partial(_with_small_images, VARIANTS[name])
    if name in available():
        return partial(_with_small_images, partial(_torchvision, name))
    if name.endswith(".py"):
        raise UnknownArchitectureError(
            f"no network is called {name!r}; of your own file, name what makes it: {name}:NAME"
        )
    near = difflib.get_close_matches(name, available(), n=3)
    hint = f"nearest: {', '.join(near)}" if near else "ghn.architectures.available() lists them"
    raise UnknownArchitectureError(f"no network is called {name!r}; {hint}")


def _with_small_images(
    constructor: Callable[..., nn.Module], num_classes: int, image_size: int
) -> nn.Module:
    if image_size > SMALL_IMAGE_SIZE:
        return constructor(num_classes=num_classes, image_size=image_size)
    model = constructor(
        num_classes=num_classes, image_size=image_size * SMALL_IMAGE_FACTOR, auxiliary_heads=False
    )
    adapt_to_small_images(model, image_size)
    return model


def _torchvision(
    name: str, num_classes: int, image_size: int, auxiliary_heads: bool = True
) -> nn.Module:
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": True, "aux_logits": auxiliary_heads}
    elif name == "maxvit_t":
        options = {"input_size": (image_size, image_size)}
    model: nn.Module = torchvision.models.get_model(name, num_classes=num_classes, **options)
    return model


def _timm_name(name: str) -> str:
    try:
        import timm
    except ImportError as error:
        raise UnknownArchitectureError(f"timm/{name} needs timm: pip install timm") from error
    if timm.is_model(name):
        return name
    near = difflib.get_close_matches(name, timm.list_models(), n=3)
    raise UnknownArchitectureError(
        f"timm has no network {name!r}; nearest: {', '.join(near) or 'none'}"
    )


def _timm(name: str, num_classes: int, image_size: int) -> nn.Module:
    import timm

    # families with position embeddings or windows need to know, the others do not take it
    if image_size != 224:
        with suppress(TypeError):
            return timm.create_model(name, num_classes=num_classes, img_size=image_size)
    return timm.create_model(name, num_classes=num_classes)
