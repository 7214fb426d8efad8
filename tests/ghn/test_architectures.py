"""Networks by name: which there are, their sizes, the variants of the paper, small images."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from ghn.architectures import (
    TORCHVISION_74,
    adapt_to_small_images,
    available,
    build,
    default_image_size,
)
from ghn.errors import ConfigError, UnknownArchitectureError
from ghn.graph import Primitive
from ghn.names import find
from ghn.tracing import trace
from ghn.tracing.run import shape_propagation


def n_params(model: nn.Module) -> int:
    return sum(param.numel() for param in model.parameters())


def logits_shape(model: nn.Module, size: int) -> tuple[int, ...]:
    return tuple(
        shape_propagation(model.eval(), torch.empty(2, 3, size, size, device="meta")).shape
    )


def test_names() -> None:
    assert len(set(TORCHVISION_74)) == 74
    assert set(TORCHVISION_74) <= set(available())
    assert set(torchvision.models.list_models(module=torchvision.models)) <= set(available())
    assert {"resnet1000", "vit_1_2b", "vit_b_16_gap", "efficientnet_b0_relu"} <= set(available())


@pytest.mark.parametrize(
    "name", ["resnet18", "regnet_y_400mf", "squeezenet1_1", "shufflenet_v2_x0_5", "googlenet"]
)
def test_same_network_as_torchvision(name: str) -> None:
    options = {"init_weights": True} if name == "googlenet" else {}
    torch.manual_seed(0)
    ours = build(name)
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, **options)
    assert ours.training
    assert all(
        torch.equal(a, b)
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    )
    on_meta = build(name, device="meta")
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert {key: tensor.shape for key, tensor in on_meta.state_dict().items()} == shapes
    assert all(tensor.is_meta for tensor in on_meta.state_dict().values())


@pytest.mark.parametrize("name", available())
def test_every_network_is_traced(name: str) -> None:
    model = build(name, num_classes=7, device="meta")
    graph = trace(model)
    graph.validate()
    size = default_image_size(name)
    assert model.image_size == size
    assert logits_shape(model, size) == (2, 7)
    layers = {
        name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    assert {f"{name}.weight" for name in layers} <= set(graph.param)
    norms = {
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm))
    }
    assert {f"{name}.weight" for name in norms} <= set(graph.param)
    assert graph.statistics()["path"] > 1


@pytest.mark.parametrize("name", TORCHVISION_74)
def test_small_images(name: str) -> None:
    """At 32 pixels the last map is about 4 x 4 (at least 2 x 2), and the trunk is the same."""
    model = build(name, num_classes=10, image_size=32, device="meta")
    sizes: list[tuple[int, int]] = []

    def note(module: nn.Module, args: object, output: torch.Tensor) -> None:
        if output.dim() == 4 and output.shape[-1] > 1:
            sizes.append((output.shape[-2], output.shape[-1]))

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
            module.register_forward_hook(note)
    assert logits_shape(model, 32) == (2, 10)
    assert model.image_size == 32
    assert all(2 <= size <= 32 for pair in sizes for size in pair)
    if not name.startswith("swin"):  # merges its patches without a strided layer
        coarse = name in ("alexnet", "inception_v3") or name[:3] in ("vgg", "squ", "vit")
        assert sizes[-1][0] in (range(2, 9) if coarse else (4,))
    full = dict(build(name, num_classes=10, device="meta").named_parameters())
    changed = [key for key, param in model.named_parameters() if param.shape != full[key].shape]
    # the first kernel; the positions of a ViT, the first linear layer after flattening
    assert len(changed) <= 2


def test_inception_sees_images_of_16_pixels() -> None:
    """Four times 16 are fewer than the 75 pixels that it needs, so it is made from eight times."""
    model = build("inception_v3", num_classes=10, image_size=16)
    assert model.eval()(torch.randn(2, 3, 16, 16)).shape == (2, 10)
    assert "Mixed_6a.branch3x3.conv.weight" in trace(model).param
    with pytest.raises(ConfigError, match="inception_v3 cannot be built for images of 8 pixels"):
        build("inception_v3", num_classes=10, image_size=8, device="meta")


@pytest.mark.parametrize("size", [16, 24, 64])
@pytest.mark.parametrize("name", ["inception_v3", "swin_t", "vit_b_32", "vgg11", "googlenet"])
def test_small_images_of_other_sizes(name: str, size: int) -> None:
    assert logits_shape(build(name, 10, size, device="meta"), size) == (2, 10)


def test_small_stem_of_a_resnet_is_the_customary_one() -> None:
    model = build("resnet18", num_classes=10, image_size=32)
    assert (model.conv1.kernel_size, model.conv1.stride, model.conv1.padding) == (
        (3, 3),
        (1, 1),
        (1, 1),
    )
    assert isinstance(model.maxpool, nn.Identity)
    assert model.layer2[0].conv1.stride == (2, 2)
    # A He initialisation has standard deviation sqrt(2 / (k * k * out_channels)); the kernel
    # shrank from 7 to 3.
    assert model.conv1.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "swin_t", "shufflenet_v2_x0_5", "googlenet", "regnet_x_400mf"]
)
def test_small_networks_learn_for_real(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, num_classes=3, image_size=32)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    grads = [param.grad for param in model.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION_74)
def test_all_small_networks_learn_for_real(name: str) -> None:
    test_small_networks_learn_for_real(name)


def test_sizes_between() -> None:
    assert logits_shape(build("resnet18", image_size=64, device="meta"), 64) == (2, 1000)
    assert build("resnet18", image_size=96, device="meta").conv1.kernel_size == (7, 7)
    assert logits_shape(build("vit_b_16", image_size=96, device="meta"), 96) == (2, 1000)
    assert logits_shape(build("vit_h_14", image_size=32, device="meta"), 32) == (2, 1000)


def test_huge_networks_of_the_paper() -> None:
    """Section A.3.3: ResNet-1000 has over 400M parameters, ViT-1.2B over 1.2 billion, with pooled
    tokens.
    """
    resnet = build("resnet1000", device="meta")
    # Layers in the usual count: convolutions of the trunk; the four projections of shortcuts
    # are not counted.
    convolutions = [
        name
        for name, m in resnet.named_modules()
        if isinstance(m, nn.Conv2d) and "downsample" not in name
    ]
    assert len(convolutions) == 1000
    assert 400e6 < n_params(resnet) < 420e6
    vit = build("vit_1_2b", device="meta")
    assert 1.2e9 < n_params(vit) < 1.3e9
    assert "class_token" not in dict(vit.named_parameters())


@pytest.mark.parametrize("name", find("little_*"))
def test_little_relatives_are_smaller_than_all_of_their_family(name: str) -> None:
    for size in (16, 64):
        assert logits_shape(build(name, 7, size, device="meta"), size) == (2, 7)
    little = n_params(build(name, device="meta"))
    family = name.removeprefix("little_").split("_")[0]
    members = [other for other in TORCHVISION_74 if other.startswith(family)]
    assert members
    assert all(little < n_params(build(other, device="meta")) for other in members)
    graph = trace(build(name, 10, 16, device="meta"))
    assert graph.n_nodes < 130


def test_pooled_vit() -> None:
    """Section A.3.4: the class token gives way to the mean over tokens."""
    torch.manual_seed(0)
    model = build("vit_b_32_gap", num_classes=5, image_size=32).eval()
    assert model.encoder.pos_embedding.shape == (1, 16, 768)
    nn.init.normal_(model.heads.head.weight)
    images = torch.randn(2, 3, 32, 32)
    expected = model.heads(model.encoder(model._process_input(images)).mean(1))
    assert torch.equal(model(images), expected)
    primitives = [Primitive(kind).name for kind in trace(model).primitive]
    assert primitives[-3:] == ["glob_avg", "conv", "bias"]


def test_efficientnet_with_relu() -> None:
    model = build("efficientnet_b0_relu", device="meta")
    assert not any(isinstance(module, nn.SiLU) for module in model.modules())
    base = build("efficientnet_b0", device="meta")
    assert trace(model).canonical_hash() == trace(base).canonical_hash()
    assert n_params(model) == n_params(base)


def test_timm() -> None:
    pytest.importorskip("timm", reason="timm is not installed (pip install timm)")
    assert logits_shape(
        build("timm/vit_tiny_patch16_224", 5, image_size=32, device="meta"), 32
    ) == (2, 5)
    assert logits_shape(build("timm/resnet10t", 5, image_size=64, device="meta"), 64) == (2, 5)
    with pytest.raises(UnknownArchitectureError, match=r"nearest: .*resnet50"):
        build("timm/resnet50x")


def test_unknown_names_and_sizes() -> None:
    with pytest.raises(
        UnknownArchitectureError, match=r"no network is called 'resnet5'; nearest: .*resnet50"
    ):
        build("resnet5")
    with pytest.raises(UnknownArchitectureError, match="available"):
        build("?")
    with pytest.raises(ConfigError, match="num_classes=0"):
        build("resnet18", num_classes=0)
    with pytest.raises(ConfigError, match="image_size=4"):
        build("resnet18", image_size=4)
    with pytest.raises(ConfigError, match="vit_b_16 cannot be built for images of 100 pixels"):
        build("vit_b_16", image_size=100)
    with pytest.raises(ConfigError, match="found no stride"):
        adapt_to_small_images(nn.Sequential(nn.Conv2d(3, 4, 3)), 32)


def test_meta_context_of_the_caller() -> None:
    with torch.device("meta"):
        model = build("regnet_x_400mf")
    assert all(param.is_meta for param in model.parameters())
