"""Networks outside the paper: all of torchvision's classifiers, timm's families, modules as users
write them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from ghn import GHN, trace
from ghn.architectures import available, build
from ghn.models.decoding.plan import plan


class Attention(nn.Module):
    def __init__(self, d: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(torch.zeros(1, 9, d))
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        x = x + self.position
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weight = (q @ k.mT / (d // self.heads) ** 0.5).softmax(-1)
        return x + self.out((weight @ v).transpose(1, 2).reshape(b, n, d))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, 8), nn.Linear(7, 8)
        self.a, self.b = nn.Linear(16, 3), nn.Linear(16, 2)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        h = F.relu(torch.cat((self.left(x), self.right(y)), dim=-1))
        return {"a": self.a(h), "b": self.b(h)}


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.transformer = nn.Transformer(16, 4, 1, 1, 32, batch_first=True)
        self.head = nn.Linear(16, 50)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.transformer(self.embed(source), self.embed(target)))


def images(size: int = 32) -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, size, size),)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(6, 50), nn.ReLU(), nn.Linear(50, 4)),
        (torch.randn(2, 6),),
    ),
    "one layer": (lambda: nn.Linear(6, 4), (torch.randn(2, 6),)),
    "no bias": (
        lambda: nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False)),
        (torch.randn(2, 6),),
    ),
    "convolutions in 1d": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 8, 5), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 30, 3)
        ),
        (torch.randn(2, 2, 30),),
    ),
    "convolutions in 3d": (
        lambda: nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 1)),
        (torch.randn(2, 1, 8, 8, 8),),
    ),
    "transposed": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 3, 3)),
        images(),
    ),
    "kernels larger than the grid": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 21), nn.ReLU(), nn.Conv2d(8, 4, (1, 12))),
        images(),
    ),
    "group and instance norm": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.GroupNorm(2, 8),
            nn.Conv2d(8, 8, 3),
            nn.InstanceNorm2d(8, affine=True),
            nn.Conv2d(8, 2, 1),
        ),
        images(),
    ),
    "norm without bias": (
        lambda: nn.Sequential(
            nn.Linear(6, 8),
            nn.LayerNorm(8, bias=False),
            nn.Linear(8, 8),
            nn.RMSNorm(8),
            nn.Linear(8, 2),
        ),
        (torch.randn(2, 6),),
    ),
    "attention": (
        lambda: nn.Sequential(Attention(), nn.LayerNorm(16), nn.Linear(16, 3)),
        (torch.randn(2, 9, 16),),
    ),
    "two inputs, two outputs": (TwoInputs, (torch.randn(2, 5), torch.randn(2, 7))),
    "nn.Transformer": (Text, (torch.randint(0, 50, (2, 6)), torch.randint(0, 50, (2, 5)))),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
        (torch.randn(2, 5, 16),),
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str, hypernetwork: GHN) -> None:
    constructor, inputs = MODULES[name]
    torch.manual_seed(0)
    model = constructor().eval()
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    hypernetwork(model, example_inputs=inputs)
    (report,) = hypernetwork.reports
    kept = {k.name: k.entries for k in report.kept}
    for key, p in model.named_parameters():
        assert int((p == before[key]).sum()) == kept.get(key, 0), key
        assert (key in report.predicted) == (kept.get(key, 0) < p.numel())
    assert report.n_predicted > 0
    outputs = model(*inputs)
    for output in outputs.values() if isinstance(outputs, dict) else [outputs]:
        assert output.isfinite().all()
        assert output.std() > 0


EXPECTED_KEPT = {  # all else is predicted in full
    "convolutions in 1d": {"0.weight", "0.bias", "3.weight", "3.bias"},
    "convolutions in 3d": {"0.weight", "0.bias", "3.weight", "3.bias"},
    "transposed": {"2.weight", "2.bias"},
    "group and instance norm": {"1.weight", "1.bias", "3.weight", "3.bias"},
    "norm without bias": {"3.weight"},
    "nn.Transformer": {"embed.weight"},  # one of 50 rows, which is not part of a square of 49
}


@pytest.mark.parametrize("name", MODULES)
def test_what_is_kept(name: str, hypernetwork: GHN) -> None:
    constructor, inputs = MODULES[name]
    report = hypernetwork.predict(constructor(), example_inputs=inputs).report
    assert {kept.name for kept in report.kept} == EXPECTED_KEPT.get(name, set())


KNOWN_UNPREDICTED = (
    "class_token",
    "layer_scale",
    "relative_position_bias_table",
    "logit_scale",
    "pos_embedding",
)


@pytest.mark.parametrize(
    "name", [name for name in available() if name not in ("resnet1000", "vit_1_2b")]
)
def test_torchvision_classifiers(name: str, hypernetwork: GHN) -> None:
    """Every node has a decoder, and what has no node is of a few known kinds. Nothing is decoded:
    it takes minutes.
    """
    model = build(name, device="meta")
    graph = trace(model)
    shapes = {key: tuple(p.shape) for key, p in model.named_parameters()}
    planned = plan([graph], [0], hypernetwork.config, shapes=[shapes])
    assert not planned.skipped
    groups = [*planned.tensors, *planned.vectors]
    decoded = {key for group in groups for key in group.names}
    decoded |= {
        key.removesuffix("weight") + "bias" for group in planned.vectors for key in group.names
    }
    for key in set(shapes) - decoded:
        assert (
            any(known in key for known in KNOWN_UNPREDICTED)
            or "cpb_mlp" in key
            or "relative_position" in key
        ), key


TIMM = (
    "bat_resnext26ts",
    "beit_base_patch16_224",
    "botnet26t_256",
    "cait_xxs24_224",
    "coat_tiny",
    "coatnet_nano_rw_224",
    "convit_tiny",
    "convmixer_768_32",
    "convnextv2_atto",
    "crossvit_tiny_240",
    "cspresnet50",
    "darknet53",
    "deit3_small_patch16_224",
    "densenet121",
    "dla34",
    "dm_nfnet_f0",
    "dpn68",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientnet_lite0",
    "efficientvit_b0",
    "fastvit_t8",
    "ghostnet_100",
    "gmlp_s16_224",
    "hardcorenas_a",
    "hgnet_tiny",
    "hrnet_w18_small",
    "inception_v4",
    "lcnet_050",
    "levit_128s",
    "maxvit_nano_rw_256",
    "mixer_s16_224",
    "mobileone_s0",
    "mobilevit_xxs",
    "mobilenetv4_conv_small",
    "nest_tiny",
    "poolformer_s12",
    "pvt_v2_b0",
    "regnetx_002",
    "repvgg_a0",
    "res2net50_26w_4s",
    "resmlp_12_224",
    "resnest14d",
    "rexnet_100",
    "sequencer2d_s",
    "swinv2_cr_tiny_ns_224",
    "tf_mobilenetv3_small_minimal_100",
    "tnt_s_patch16_224",
    "twins_svt_small",
    "visformer_tiny",
    "vgg11",
    "volo_d1_224",
    "wide_resnet50_2",
    "xcit_nano_12_p16_224",
)
TIMM_FAST = ("convnextv2_atto", "efficientnet_lite0", "mixer_s16_224", "mobilevit_xxs", "repvgg_a0")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in TIMM_FAST else pytest.mark.slow) for name in TIMM],
)
def test_timm(name: str, hypernetwork: GHN) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    if not timm.is_model(name):
        pytest.skip(f"this version of timm has no {name}")
    torch.manual_seed(0)
    model = timm.create_model(name)
    hypernetwork(model)
    (report,) = hypernetwork.reports
    assert report.n_predicted > 0.5 * report.n_parameters, report
    assert all(p.isfinite().all() for p in model.parameters())
    assert all(kept.reason for kept in report.kept)


def test_input_sizes(hypernetwork: GHN) -> None:
    """Parameters do not depend on the size of images where shapes do not."""
    expected = hypernetwork.predict(
        torchvision.models.resnet18(), example_inputs=torch.randn(1, 3, 224, 224)
    )
    for size in (64, 97, 320):
        state = hypernetwork.predict(
            torchvision.models.resnet18(), example_inputs=torch.randn(1, 3, size, size)
        )
        assert all(torch.equal(expected[key], tensor) for key, tensor in state.items())
