"""Names of networks, and the networks: torchvision's, the paper's variants of them, timm's.

Small images. At `image_size <= 64` a network is the one made for images four times as large, without the first factor
of four of its downsampling (`adapt_to_small_images`): one rule for every family, so that a 32-pixel image reaches the
head of any of them as a map of about 4 x 4. For ResNets it is the customary CIFAR stem.

Variants, by the suffix or name they are listed under:

- `vit_*_gap`: the class token replaced by the mean over tokens (paper section A.3.4, "no distribution shift");
- `efficientnet_*_relu`: SiLU replaced by ReLU (the same section);
- `resnet1000`: a ResNet of 1000 layers and 411M parameters; `vit_1_2b`: a ViT with pooled tokens and 1.2 billion
  parameters (section A.3.3; the paper gives the sizes, the arrangement is ours);
- `timm/<name>`: any network of timm, where it is installed.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models import VisionTransformer
from torchvision.models.resnet import Bottleneck, ResNet

from ghn.errors import ConfigError, UnknownArchitectureError

SMALL_IMAGE_SIZE = 64
"""Largest image, in pixels, for which the stem loses its downsampling."""

SMALL_IMAGE_FACTOR = 4
"""How much less a network downsamples on small images."""

TORCHVISION_74: tuple[str, ...] = tuple(
    "alexnet squeezenet1_0 squeezenet1_1 shufflenet_v2_x0_5 mobilenet_v3_small mnasnet0_5 vgg11 shufflenet_v2_x1_0 "
    "resnet18 googlenet vgg13 vgg11_bn mnasnet0_75 vgg13_bn vgg16 mobilenet_v2 vgg19 regnet_x_400mf "
    "shufflenet_v2_x1_5 resnet34 vgg16_bn mnasnet1_0 mobilenet_v3_large regnet_y_400mf vgg19_bn densenet121 "
    "regnet_x_800mf densenet169 vit_b_32 resnet50 shufflenet_v2_x2_0 regnet_y_800mf mnasnet1_3 densenet201 vit_l_32 "
    "regnet_x_1_6gf densenet161 inception_v3 resnet101 resnext50_32x4d efficientnet_b0 regnet_y_1_6gf resnet152 "
    "regnet_x_3_2gf wide_resnet50_2 efficientnet_b1 wide_resnet101_2 regnet_y_3_2gf resnext101_32x8d regnet_x_8gf "
    "vit_l_16 regnet_y_8gf regnet_x_16gf regnet_y_16gf efficientnet_b2 regnet_x_32gf regnet_y_32gf vit_b_16 swin_t "
    "efficientnet_b3 convnext_tiny swin_s resnext101_64x4d efficientnet_b4 efficientnet_b5 swin_b convnext_small "
    "efficientnet_b6 convnext_base efficientnet_b7 efficientnet_v2_s convnext_large efficientnet_v2_m "
    "efficientnet_v2_l".split()
)
"""The PyTorch split of the paper, in the order of its table 20."""


@lru_cache
def available() -> tuple[str, ...]:
    """All names that `build` takes without a prefix: torchvision's classification models and the variants."""
    return (*_torchvision_names(), *sorted(_variants()))


def default_image_size(name: str) -> int:
    """The image size, in pixels, that `name` is traced and evaluated at: 299 for Inception, else 224."""
    return 299 if name.startswith("inception") else 224


def build(
    name: str, num_classes: int = 1000, image_size: int = 224, device: torch.device | str | None = None
) -> nn.Module:
    """Builds a network with its standard initialisation, in train mode, as torchvision does.

    Args:
        name: one of `available()`, or `timm/<name>`.
        num_classes: outputs of the class head.
        image_size: height and width, in pixels, of the images it will see. 224 leaves the network as its library makes
            it (Inception takes 299 then). At most 64: see the module's description; the auxiliary heads of GoogLeNet
            and Inception, which need larger maps, are left out. The size is noted in the network's `image_size`.
        device: where the parameters go; "meta" builds none, in a few milliseconds.

    Raises:
        UnknownArchitectureError: no such name; the message has the nearest ones.
        ConfigError: `num_classes` or `image_size` is out of range for the network.
    """
    if num_classes < 1:
        raise ConfigError(f"num_classes={num_classes}: a network needs at least one class")
    if image_size < 8:
        raise ConfigError(f"image_size={image_size}: images need at least 8 pixels on a side")
    constructor = _constructor(name)
    small = image_size <= SMALL_IMAGE_SIZE
    nominal = image_size * SMALL_IMAGE_FACTOR if small else image_size
    device = torch.device(device or torch.get_default_device())
    with _WithoutValues() if device.type == "meta" else device:
        try:
            model = constructor(num_classes=num_classes, image_size=nominal, small=small)
        except (RuntimeError, ValueError, AssertionError) as error:
            if image_size == 224:
                raise
            raise ConfigError(f"{name} cannot be built for images of {image_size} pixels: {error}") from error
    if device.type == "meta":
        model.to(device)
    if small:
        adapt_to_small_images(model, image_size)
    model.image_size = default_image_size(name) if image_size == 224 else image_size  # type: ignore[assignment]
    return model


def adapt_to_small_images(model: nn.Module, image_size: int) -> None:
    """Removes from the stem of `model` the downsampling from `4 * image_size` to `image_size` pixels, in place.

    Every convolution or pooling that would see a map larger than `image_size` (when the model is run on an image of
    `4 * image_size`) gives up that much of its stride: a pooling layer becomes the identity; of a convolution with
    non-overlapping patches the patch shrinks with the stride; another convolution keeps a kernel up to 3, a larger one
    becomes 3 x 3, padded. A patch of one pixel becomes a padded 3 x 3 convolution too. A shrunk kernel is the centre of
    the old one, scaled so that the variance of the layer's output stays as its initialisation meant it.

    Args:
        model: built for images of `4 * image_size`.
        image_size: in pixels.

    Raises:
        ConfigError: the model downsamples by other means, so the rule finds nothing to remove.
    """
    from ghn.graph.trace import shape_propagation

    strides: dict[str, int] = {}
    names = {module: name for name, module in model.named_modules()}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        size = args[0].shape[-1]
        stride = _pair(module.stride)[0]
        if size > image_size and stride > 1:
            # The layer may be a residual branch's as well as the trunk's: each gives up the same factor.
            strides[names[module]] = min(stride, math.ceil(size / image_size))

    layers = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
    hooks = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, layers)]
    try:
        size = image_size * SMALL_IMAGE_FACTOR
        shape_propagation(model, torch.empty(1, 3, size, size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    if not strides:
        raise ConfigError(f"{type(model).__name__}: found no downsampling to remove for images of {image_size} pixels")
    for name, factor in strides.items():
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Conv2d):
            _reduce_stride(layer, factor)
        else:
            model.set_submodule(name, nn.Identity())
    model.image_size = image_size  # type: ignore[assignment]
    if isinstance(model, VisionTransformer):
        model.patch_size //= SMALL_IMAGE_FACTOR


def _reduce_stride(conv: nn.Conv2d, factor: int) -> None:
    """Divides the stride of `conv` by `factor` and shrinks its kernel accordingly, in place."""
    stride, kernel = conv.stride[0], conv.kernel_size[0]
    new_stride = max(1, stride // factor)
    patches = kernel == stride
    new_kernel = new_stride if patches and new_stride > 1 else 3 if patches else min(kernel, 3)
    conv.stride = (new_stride, new_stride)
    if new_kernel == kernel:
        return
    start = (kernel - new_kernel) // 2
    centre = conv.weight.detach()[:, :, start : start + new_kernel, start : start + new_kernel]
    conv.weight = nn.Parameter(centre * (kernel / new_kernel))
    conv.kernel_size = (new_kernel, new_kernel)
    if new_kernel == 3:
        conv.padding = (1, 1)
    conv._reversed_padding_repeated_twice = [size for size in reversed(conv.padding) for _ in range(2)]  # type: ignore


class PooledVisionTransformer(VisionTransformer):
    """A ViT whose head sees the mean over tokens, without a class token (paper section A.3.4)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        del self.class_token
        self.seq_length -= 1
        self.encoder.pos_embedding = nn.Parameter(torch.empty(1, self.seq_length, self.hidden_dim).normal_(std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, 3, H, W)."""
        return self.heads(self.encoder(self._process_input(x)).mean(dim=1))  # type: ignore[no-any-return]


_VIT_SIZES: dict[str, dict[str, int]] = {
    "vit_b_16": {"patch_size": 16, "num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072},
    "vit_b_32": {"patch_size": 32, "num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072},
    "vit_l_16": {"patch_size": 16, "num_layers": 24, "num_heads": 16, "hidden_dim": 1024, "mlp_dim": 4096},
    "vit_l_32": {"patch_size": 32, "num_layers": 24, "num_heads": 16, "hidden_dim": 1024, "mlp_dim": 4096},
    "vit_h_14": {"patch_size": 14, "num_layers": 32, "num_heads": 16, "hidden_dim": 1280, "mlp_dim": 5120},
    "vit_1_2b": {"patch_size": 16, "num_layers": 40, "num_heads": 20, "hidden_dim": 1600, "mlp_dim": 6400},
}

_RESNET1000_BLOCKS = [3, 8, 309, 13]  # three layers each: 999, and the first convolution


def _resnet1000(num_classes: int, **_: Any) -> nn.Module:
    return ResNet(Bottleneck, _RESNET1000_BLOCKS, num_classes=num_classes)


def _pooled_vit(size: dict[str, int], num_classes: int, image_size: int, **_: Any) -> nn.Module:
    return PooledVisionTransformer(**size, num_classes=num_classes, image_size=image_size)


def _efficientnet_relu(base: str, num_classes: int, **_: Any) -> nn.Module:
    model: nn.Module = torchvision.models.get_model(base, num_classes=num_classes)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.SiLU):
            model.set_submodule(name, nn.ReLU(inplace=module.inplace))
    return model


def _torchvision(name: str, num_classes: int, image_size: int, small: bool) -> nn.Module:
    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        options["image_size"] = image_size
    elif name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
        options["aux_logits"] = not small
    elif name == "maxvit_t":
        options["input_size"] = (image_size, image_size)
    model: nn.Module = torchvision.models.get_model(name, num_classes=num_classes, **options)
    return model


def _timm(name: str, num_classes: int, image_size: int, **_: Any) -> nn.Module:
    import timm

    options: dict[str, Any] = {} if image_size == 224 else {"img_size": image_size}
    try:
        model: nn.Module = timm.create_model(name, num_classes=num_classes, **options)
    except TypeError:  # fully convolutional families take no `img_size`
        model = timm.create_model(name, num_classes=num_classes)
    return model


@lru_cache
def _torchvision_names() -> tuple[str, ...]:
    return tuple(torchvision.models.list_models(module=torchvision.models))


@lru_cache
def _variants() -> dict[str, Callable[..., nn.Module]]:
    variants: dict[str, Callable[..., nn.Module]] = {"resnet1000": _resnet1000}
    for name, size in _VIT_SIZES.items():
        variants[name if name == "vit_1_2b" else f"{name}_gap"] = partial(_pooled_vit, size)
    for name in _torchvision_names():
        if name.startswith("efficientnet_"):
            variants[f"{name}_relu"] = partial(_efficientnet_relu, name)
    return variants


def _constructor(name: str) -> Callable[..., nn.Module]:
    if name in _torchvision_names():
        return partial(_torchvision, name)
    if name in _variants():
        return _variants()[name]
    if name.startswith("timm/"):
        try:
            import timm
        except ImportError as error:
            raise UnknownArchitectureError(f"{name} needs timm: pip install timm") from error
        if timm.is_model(name.removeprefix("timm/")):
            return partial(_timm, name.removeprefix("timm/"))
        near = difflib.get_close_matches(name.removeprefix("timm/"), timm.list_models(), n=3)
        raise UnknownArchitectureError(f"timm has no network {name!r}; nearest: {', '.join(near) or 'none'}")
    near = difflib.get_close_matches(name, available(), n=3)
    hint = f"nearest: {', '.join(near)}" if near else "ghn.architectures.available() lists them"
    raise UnknownArchitectureError(f"no network is called {name!r}; {hint}")


class _WithoutValues(TorchFunctionMode):
    """Makes uninitialised tensors on the meta device and skips their initialisation.

    `torch.device("meta")` would send every tensor there, also those whose values decide the architecture (block widths
    of RegNet), and would run the initialisers' meta kernels, which are slow (0.5 s for a ViT-L).
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            return func(*args, **{**kwargs, "device": "meta"})
        name = getattr(func, "__name__", "")
        in_place = name.endswith("_") and not name.startswith("_")
        if in_place and args and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **kwargs)


def _pair(value: int | tuple[int, ...] | None) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value or 1, value or 1)
