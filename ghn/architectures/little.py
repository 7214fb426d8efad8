"""Little relatives of torchvision's families: cheap networks to train a hypernetwork on
(`train.population`) that is to predict for the families' real members.

None of them is a network of the paper's 74: they are narrower, shallower and made of the same
blocks. DeepNets-1M has no inverted residuals, no channel shuffles, no layer norms between
convolutions and no heads of several wide layers, and a hypernetwork that has seen none is at chance
on the families that are built of them.
"""

from __future__ import annotations

from collections.abc import Callable
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


def _vgg(batch_norm: bool, num_classes: int) -> nn.Module:
    layers = make_layers([32, "M", 64, "M", 128, 128, "M", 128, "M", 128, "M"], batch_norm)
    model: nn.Module = VGG(nn.Identity(), num_classes=1, init_weights=False)
    model.features, model.classifier = layers, _head(128 * 7 * 7, 512, num_classes)
    return model


def _alexnet(num_classes: int) -> nn.Module:
    model: nn.Module = AlexNet(num_classes=1)
    model.features = nn.Sequential(
        nn.Conv2d(3, 32, 11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(32, 96, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 128, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(128, 96, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
    )
    model.classifier = _head(96 * 6 * 6, 512, num_classes)
    return model


def _squeezenet(num_classes: int) -> nn.Module:
    model: nn.Module = SqueezeNet("1_1", num_classes=num_classes)
    model.features = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(32, 8, 32, 32),
        Fire(64, 16, 64, 64),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(128, 16, 64, 64),
        Fire(128, 24, 96, 96),
    )
    model.set_submodule("classifier.1", nn.Conv2d(192, num_classes, 1))
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


def _convnext(num_classes: int) -> nn.Module:
    blocks = [
        CNBlockConfig(48, 96, 1),
        CNBlockConfig(96, 192, 1),
        CNBlockConfig(192, 256, 2),
        CNBlockConfig(256, None, 1),
    ]
    model: nn.Module = ConvNeXt(blocks, stochastic_depth_prob=0.0, num_classes=num_classes)
    return model


def _swin(num_classes: int) -> nn.Module:
    model: nn.Module = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=48,
        depths=[1, 2, 2],
        num_heads=[2, 4, 8],
        window_size=[7, 7],
        stochastic_depth_prob=0.0,
        num_classes=num_classes,
    )
    return model


_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "alexnet": _alexnet,
    "convnext": _convnext,
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
    "squeezenet": _squeezenet,
    "swin": _swin,
    "vgg": partial(_vgg, False),
    "vgg_bn": partial(_vgg, True),
}


def _built(name: str, num_classes: int, **_: Any) -> nn.Module:
    model: nn.Module = _CONSTRUCTORS[name](num_classes=num_classes)
    return model


LITTLE = {f"little_{name}": partial(_built, name) for name in _CONSTRUCTORS}
"""Constructors by name; `little_vit` is among the ViTs of `ghn.architectures.variants`."""
