"""The operations of the search space as modules. Their parameters' names are those of the published graphs.

Shape legend: B images, C channels, H and W pixels, T = H * W tokens. Modules built on the meta device skip their
initialisation, which there is the larger part of building them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

HEADS = 8
"""Attention heads of an msa operation."""


class Conv2d(nn.Conv2d):
    """A convolution without bias."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, padding, dilation, groups, bias=False)

    def reset_parameters(self) -> None:
        """PyTorch's default initialisation."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Linear(nn.Linear):
    """A linear layer."""

    def reset_parameters(self) -> None:
        """PyTorch's default initialisation."""
        if not self.weight.is_meta:
            super().reset_parameters()


def batch_norm(channels: int) -> nn.Module:
    """Batch normalisation by the statistics of the batch, in evaluation too: running ones are not predicted."""
    return nn.BatchNorm2d(channels, track_running_stats=False)


class ReLUConv(nn.Module):
    """ReLU, convolutions, norm."""

    def __init__(self, *convolutions: nn.Module, channels: int, norm: bool) -> None:
        super().__init__()
        self.op = nn.Sequential(nn.ReLU(), *convolutions, *([batch_norm(channels)] if norm else []))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C', H', W')."""
        out: Tensor = self.op(x_BCHW)
        return out


def convolution(channels_in: int, channels: int, kernel: int, stride: int, norm: bool) -> nn.Module:
    """A dense k x k convolution."""
    conv = Conv2d(channels_in, channels, kernel, stride, kernel // 2)
    return ReLUConv(conv, channels=channels, norm=norm)


def factorised_convolution(channels: int, kernel: int, stride: int, norm: bool) -> nn.Module:
    """A 1 x k convolution and a k x 1 convolution."""
    across = Conv2d(channels, channels, (1, kernel), (1, stride), (0, kernel // 2))
    down = Conv2d(channels, channels, (kernel, 1), (stride, 1), (kernel // 2, 0))
    return ReLUConv(across, down, channels=channels, norm=norm)


def dilated_convolution(channels: int, kernel: int, stride: int, norm: bool) -> nn.Module:
    """A depthwise k x k convolution of dilation 2 and a 1 x 1 convolution."""
    depthwise = Conv2d(channels, channels, kernel, stride, kernel - 1, dilation=2, groups=channels)
    return ReLUConv(depthwise, Conv2d(channels, channels, 1), channels=channels, norm=norm)


class SeparableConvolution(nn.Module):
    """Twice: ReLU, depthwise k x k convolution, 1 x 1 convolution, norm. Only the first one strides."""

    def __init__(self, channels: int, kernel: int, stride: int, norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for step in (stride, 1):
            layers += [
                nn.ReLU(),
                Conv2d(channels, channels, kernel, step, kernel // 2, groups=channels),
                Conv2d(channels, channels, 1),
                batch_norm(channels) if norm else nn.Identity(),
            ]
        self.op = nn.Sequential(*layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H', W')."""
        out: Tensor = self.op(x_BCHW)
        return out


class FactorizedReduce(nn.Module):
    """Halves the resolution by two strided 1 x 1 convolutions of C/2 channels each, on grids one pixel apart."""

    def __init__(self, channels_in: int, channels: int, norm: bool) -> None:
        super().__init__()
        self.conv_1 = Conv2d(channels_in, channels // 2, 1, 2)
        self.conv_2 = Conv2d(channels_in, channels // 2, 1, 2)
        self.bn = batch_norm(channels) if norm else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H/2, W/2)."""
        x_BCHW = F.relu(x_BCHW)
        out: Tensor = self.bn(torch.cat([self.conv_1(x_BCHW), self.conv_2(x_BCHW[:, :, 1:, 1:])], dim=1))
        return out


class Subsample(nn.Module):
    """Every second pixel, for networks without preprocessing."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H/2, W/2)."""
        return x_BCHW[:, :, ::2, ::2]


class SqueezeExcitation(nn.Module):
    """Channel squeeze-and-excitation (Hu et al., 2018) with a hard-swish gate."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.fc1 = Linear(channels, channels // 2)
        self.fc2 = Linear(channels // 2, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H', W')."""
        gate_BC = F.hardswish(self.fc2(F.relu(self.fc1(x_BCHW.flatten(2).mean(dim=2)))))
        out = x_BCHW * gate_BC[:, :, None, None]
        return out if self.stride == 1 else out[:, :, :: self.stride, :: self.stride]


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_qkv = Linear(channels, 3 * channels, bias=False)
        self.to_out = nn.Sequential(Linear(channels, channels))

    def forward(self, x_BTC: Tensor) -> Tensor:
        b, t, c = x_BTC.shape
        q, k, v = self.to_qkv(x_BTC).reshape(b, t, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.to_out(out.transpose(1, 2).reshape(b, t, c))
        return projected


class _FeedForward(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        # The published names leave index 2 to a dropout of rate 0.
        self.net = nn.Sequential(Linear(channels, channels), nn.GELU(), nn.Identity(), Linear(channels, channels))

    def forward(self, x_BTC: Tensor) -> Tensor:
        out: Tensor = self.net(x_BTC)
        return out


class Transformer(nn.Module):
    """A pre-norm transformer layer on the pixels (msa)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(channels)
        self.attn = _Attention(channels)
        self.ln2 = nn.LayerNorm(channels)
        self.ff = _FeedForward(channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W)."""
        b, c, h, w = x_BCHW.shape
        x_BTC = x_BCHW.flatten(2).transpose(1, 2)
        x_BTC = x_BTC + self.attn(self.ln1(x_BTC))
        x_BTC = x_BTC + self.ff(self.ln2(x_BTC))
        return x_BTC.transpose(1, 2).reshape(b, c, h, w)


class PositionalEncoding(nn.Module):
    """Adds a learned tensor."""

    def __init__(self, channels: int, grid: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, channels, grid, grid))
        if not self.weight.is_meta:
            nn.init.normal_(self.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W)."""
        return x_BCHW + self.weight


def operation(name: str, channels: int, stride: int, norm: bool) -> nn.Module:
    """The module of an operation (one of `search_space.OPERATIONS`, not none)."""
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, norm)
    if name == "msa":
        return Transformer(channels)
    if name == "cse":
        return SqueezeExcitation(channels, stride)
    if name == "conv_7x1_1x7":
        return factorised_convolution(channels, 7, stride, norm)
    kind, size = name.rsplit("_", 1)
    kernel = int(size.split("x")[0])
    if kind == "max_pool":
        return nn.MaxPool2d(kernel, stride, kernel // 2)
    if kind == "avg_pool":
        return nn.AvgPool2d(kernel, stride, kernel // 2, count_include_pad=False)
    if kind == "conv":
        return convolution(channels, channels, kernel, stride, norm)
    if kind == "dil_conv":
        return dilated_convolution(channels, kernel, stride, norm)
    return SeparableConvolution(channels, kernel, stride, norm)
