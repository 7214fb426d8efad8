"""Variants of torchvision's networks that the paper evaluates, and ViTs at any image size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.resnet import Bottleneck, ResNet

from ghn.architectures.little import LITTLE
from ghn.architectures.small_images import SMALL_IMAGE_FACTOR, SMALL_IMAGE_SIZE


class _ViTSize(NamedTuple):
    patch_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    mlp_dim: int
    pooled: bool = False


_TORCHVISION_VITS = {
    "vit_b_16": _ViTSize(16, 12, 12, 768, 3072),
    "vit_b_32": _ViTSize(32, 12, 12, 768, 3072),
    "vit_l_16": _ViTSize(16, 24, 16, 1024, 4096),
    "vit_l_32": _ViTSize(32, 24, 16, 1024, 4096),
    "vit_h_14": _ViTSize(14, 32, 16, 1280, 5120),
}

VIT_SIZES = {
    **_TORCHVISION_VITS,
    **{f"{name}_gap": size._replace(pooled=True) for name, size in _TORCHVISION_VITS.items()},
    "vit_1_2b": _ViTSize(16, 40, 20, 1600, 6400, pooled=True),
    "little_vit": _ViTSize(16, 4, 4, 128, 512),
    "little_vit_deeper": _ViTSize(16, 8, 4, 128, 512),
    "little_vit_wider": _ViTSize(32, 4, 6, 384, 1536),
}
"""ViTs; those that are pooled have no class token."""

_RESNET1000_BLOCKS = [3, 8, 310, 12]  # 333 of three layers each, and the first convolution


class PooledVisionTransformer(VisionTransformer):  # type: ignore[misc]
    """A ViT whose head sees the mean over tokens, without a class token (paper section A.3.4)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        del self.class_token
        self.seq_length -= 1
        self.encoder.pos_embedding = nn.Parameter(
            torch.empty(1, self.seq_length, self.hidden_dim).normal_(std=0.02)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, 3, H, W)."""
        h_BTC = self.encoder(self._process_input(x))
        logits: Tensor = self.heads(h_BTC.mean(dim=1))
        return logits


def vision_transformer(name: str, num_classes: int, image_size: int) -> nn.Module:
    """The ViT called `name` in `VIT_SIZES`; on small images its patches are a quarter as large,
    rounded.
    """
    size = VIT_SIZES[name]
    if image_size <= SMALL_IMAGE_SIZE:
        size = size._replace(patch_size=round(size.patch_size / SMALL_IMAGE_FACTOR))
    options = size._asdict()
    kind = PooledVisionTransformer if options.pop("pooled") else VisionTransformer
    return kind(**options, num_classes=num_classes, image_size=image_size)


def _resnet1000(num_classes: int, **_: Any) -> nn.Module:
    """1000 layers: 333 bottlenecks of three, and the first convolution; most blocks in the third
    stage, as usual.
    """
    model: nn.Module = ResNet(Bottleneck, _RESNET1000_BLOCKS, num_classes=num_classes)
    return model


def _efficientnet_relu(base: str, num_classes: int, **_: Any) -> nn.Module:
    model: nn.Module = torchvision.models.get_model(base, num_classes=num_classes)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.SiLU):
            model.set_submodule(name, nn.ReLU(inplace=module.inplace))
    return model


VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "resnet1000": _resnet1000,
    **LITTLE,
    **{
        f"{name}_relu": partial(_efficientnet_relu, name)
        for name in torchvision.models.list_models(
            module=torchvision.models, include="efficientnet_*"
        )
    },
}
"""Constructors by name of what is neither torchvision's nor a ViT."""
