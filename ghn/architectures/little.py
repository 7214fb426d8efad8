"""Little relatives of torchvision's families: cheap networks to train a hypernetwork on
(`train.population`) that is to predict for the families' real members.

None of them is a network of the paper's 74: they are narrower, shallower and made of the same
blocks. DeepNets-1M has no inverted residuals, no channel shuffles, no layer norms between
convolutions and no heads of several wide layers, and a hypernetwork that has seen none is at chance
on the families that are built of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn
from torchvision.models import (
    VGG,
    AlexNet,
    ConvNeXt,
    DenseNet,
    EfficientNet,
    MNASNet,
    MobileNetV2,
    MobileNetV3,
    RegNet,
    ResNet,
    ShuffleNetV2,
    SqueezeNet,
    SwinTransformer,
)
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import FusedMBConvConfig, MBConvConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.regnet import BlockParams
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.squeezenet import Fire
from torchvision.models.swin_transformer import (
    PatchMerging,
    PatchMergingV2,
    SwinTransformerBlock,
    SwinTransformerBlockV2,
)
from torchvision.models.vgg import make_layers


def _resnet(block: type[nn.Module], num_classes: int, **options: Any) -> nn.Module:
    model: nn.Module = ResNet(block, [1, 1, 1, 1], num_classes=num_classes, **options)
    return model


def _head(inputs: int, width: int, num_classes: int) -> nn.Sequential:
    """The three layers at the end of an AlexNet or a VGG."""
    return nn.Sequential(
        nn.Dropout(),
        nn.Linear(inputs, width),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(width, width),
        nn.ReLU(inplace=True),
        nn.Linear(width, num_classes),
    )


def _vgg(layers: Sequence[int | str], head: int, batch_norm: bool, num_classes: int) -> nn.Module:
    model: nn.Module = VGG(nn.Identity(), num_classes=1, init_weights=False)
    model.features = make_layers(list(layers), batch_norm)
    last = [width for width in layers if isinstance(width, int)][-1]
    model.classifier = _head(last * 7 * 7, head, num_classes)
    return model


def _alexnet(widths: Sequence[int], head: int, num_classes: int) -> nn.Module:
    one, two, three, four = widths
    model: nn.Module = AlexNet(num_classes=1)
    model.features = nn.Sequential(
        nn.Conv2d(3, one, 11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(one, two, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(two, three, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(three, four, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
    )
    model.classifier = _head(four * 6 * 6, head, num_classes)
    return model


def _squeezenet(stem: int, stages: Sequence[Sequence[int]], num_classes: int) -> nn.Module:
    """Fire modules by their squeezed channels, of which each expansion has four times as many; a
    stage begins with pooling.
    """
    model: nn.Module = SqueezeNet("1_1", num_classes=num_classes)
    layers: list[nn.Module] = [nn.Conv2d(3, stem, 3, stride=2), nn.ReLU(inplace=True)]
    channels = stem
    for stage in stages:
        layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        for squeezed in stage:
            layers.append(Fire(channels, squeezed, 4 * squeezed, 4 * squeezed))
            channels = 8 * squeezed
    model.features = nn.Sequential(*layers)
    model.set_submodule("classifier.1", nn.Conv2d(channels, num_classes, 1))
    return model


def _mobilenet_v3(num_classes: int) -> nn.Module:
    # input channels, kernel, expanded and output channels, squeeze-and-excitation, activation,
    # stride, dilation, factor on the widths
    blocks = [
        InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1.0),
        InvertedResidualConfig(16, 3, 48, 24, False, "RE", 2, 1, 1.0),
        InvertedResidualConfig(24, 5, 72, 32, True, "HS", 2, 1, 1.0),
        InvertedResidualConfig(32, 5, 96, 32, True, "HS", 1, 1, 1.0),
        InvertedResidualConfig(32, 5, 144, 64, True, "HS", 2, 1, 1.0),
    ]
    model: nn.Module = MobileNetV3(blocks, last_channel=256, num_classes=num_classes)
    return model


def _regnet(se_ratio: float | None, num_classes: int) -> nn.Module:
    parameters = BlockParams.from_init_params(
        depth=7, w_0=32, w_a=24.0, w_m=2.2, group_width=16, se_ratio=se_ratio
    )
    model: nn.Module = RegNet(parameters, num_classes=num_classes)
    return model


def _efficientnet(num_classes: int) -> nn.Module:
    # expansion, kernel, stride, input and output channels, layers, factors on widths and depths
    blocks = [
        MBConvConfig(1, 3, 1, 16, 16, 1, 1.0, 1.0),
        MBConvConfig(6, 3, 2, 16, 24, 1, 1.0, 1.0),
        MBConvConfig(6, 5, 2, 24, 40, 2, 1.0, 1.0),
        MBConvConfig(6, 3, 2, 40, 80, 2, 1.0, 1.0),
        MBConvConfig(6, 5, 2, 80, 112, 1, 1.0, 1.0),
    ]
    model: nn.Module = EfficientNet(blocks, dropout=0.2, num_classes=num_classes)
    return model


def _efficientnet_v2(num_classes: int) -> nn.Module:
    blocks = [
        FusedMBConvConfig(1, 3, 1, 24, 24, 1),
        FusedMBConvConfig(4, 3, 2, 24, 48, 1),
        FusedMBConvConfig(4, 3, 2, 48, 64, 1),
        MBConvConfig(4, 3, 2, 64, 96, 2, 1.0, 1.0),
        MBConvConfig(6, 3, 2, 96, 128, 2, 1.0, 1.0),
    ]
    model: nn.Module = EfficientNet(blocks, dropout=0.2, num_classes=num_classes, last_channel=512)
    return model


def _convnext(dims: Sequence[int], depths: Sequence[int], num_classes: int) -> nn.Module:
    following = [*dims[1:], None]
    blocks = [CNBlockConfig(*block) for block in zip(dims, following, depths, strict=True)]
    model: nn.Module = ConvNeXt(blocks, stochastic_depth_prob=0.0, num_classes=num_classes)
    return model


def _swin(dim: int, depths: Sequence[int], heads: int, version: int, num_classes: int) -> nn.Module:
    model: nn.Module = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=dim,
        depths=list(depths),
        num_heads=[heads << stage for stage in range(len(depths))],
        window_size=[7, 7] if version == 1 else [8, 8],
        stochastic_depth_prob=0.0,
        num_classes=num_classes,
        block=SwinTransformerBlock if version == 1 else SwinTransformerBlockV2,
        downsample_layer=PatchMerging if version == 1 else PatchMergingV2,
    )
    return model


_VGG = (32, "M", 64, "M", 128, 128, "M", 128, "M", 128, "M")
_VGG_DEEPER = (32, "M", 64, "M", 96, 96, "M", 128, 128, "M", 128, 128, "M")
_VGG_WIDER = (48, "M", 96, "M", 128, 128, "M", 192, "M", 192, "M")

_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "alexnet": partial(_alexnet, (32, 96, 128, 96), 512),
    "alexnet_wider": partial(_alexnet, (64, 128, 192, 192), 1024),
    "convnext": partial(_convnext, (48, 96, 192, 256), (1, 1, 2, 1)),
    "convnext_deeper": partial(_convnext, (32, 64, 128, 256), (2, 2, 5, 2)),
    "convnext_wider": partial(_convnext, (64, 128, 256, 384), (1, 1, 1, 1)),
    "densenet": partial(DenseNet, 16, (2, 3, 4, 3), 32),
    "efficientnet": _efficientnet,
    "efficientnet_v2": _efficientnet_v2,
    "mnasnet": partial(MNASNet, 0.35),
    "mobilenet_v2": lambda num_classes: MobileNetV2(num_classes, width_mult=0.35),
    "mobilenet_v3": _mobilenet_v3,
    "regnet_x": partial(_regnet, None),
    "regnet_y": partial(_regnet, 0.25),
    "resnet": partial(_resnet, BasicBlock),
    "resnet_bottleneck": partial(_resnet, Bottleneck),
    "resnext": partial(_resnet, Bottleneck, groups=16, width_per_group=4),
    "shufflenet_v2": partial(ShuffleNetV2, [2, 3, 2], [24, 32, 64, 128, 256]),
    "shufflenet_v2_deeper": partial(ShuffleNetV2, [3, 7, 3], [24, 40, 80, 160, 512]),
    "shufflenet_v2_wider": partial(ShuffleNetV2, [2, 3, 2], [24, 64, 128, 192, 512]),
    "squeezenet": partial(_squeezenet, 32, ((8, 16), (16, 24))),
    "squeezenet_deeper": partial(_squeezenet, 48, ((8, 12), (16, 24), (24, 32, 32))),
    "squeezenet_wider": partial(_squeezenet, 64, ((16, 16), (32, 32), (48,))),
    "swin": partial(_swin, 48, (1, 2, 2), 2, 1),
    "swin_deeper": partial(_swin, 32, (1, 2, 3, 2), 2, 1),
    "swin_wider": partial(_swin, 64, (1, 1, 2), 2, 1),
    "swin_v2": partial(_swin, 48, (1, 2, 2), 2, 2),
    "vgg": partial(_vgg, _VGG, 512, False),
    "vgg_deeper": partial(_vgg, _VGG_DEEPER, 512, False),
    "vgg_wider": partial(_vgg, _VGG_WIDER, 768, False),
    "vgg_bn": partial(_vgg, _VGG, 512, True),
}
"""One of each family; two or three of those whose members a single relative does not help."""


def _built(name: str, num_classes: int, **_: Any) -> nn.Module:
    model: nn.Module = _CONSTRUCTORS[name](num_classes=num_classes)
    return model


LITTLE = {f"little_{name}": partial(_built, name) for name in _CONSTRUCTORS}
"""Constructors by name; `little_vit` is among the ViTs of `ghn.architectures.variants`."""
