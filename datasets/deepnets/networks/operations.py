"""The operations of the search space as modules. Their parameters' names are those of the published
graphs.

Shape legend: B images, C channels, H and W pixels, T = H * W tokens.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.deepnets.networks.cpu import attention, switch
from datasets.deepnets.networks.layers import (
    Conv2d,
    DenseConv2d,
    Depthwise,
    Device,
    LayerNorm,
    Linear,
    Numbered,
    norm_layer,
)

HEADS = 8
"""Attention heads of an msa operation."""


class State:
    """A value and its ReLU, which is computed once for all operations that begin with one."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    @cached_property
    def relu(self) -> Tensor:
        """The value where it is positive, else 0."""
        return F.relu(self.value)


class AfterReLU(nn.Module):
    """An operation that begins with a ReLU: its input is the `State.relu` of what it reads."""


def apply(operation: nn.Module, state: State) -> Tensor:
    """The operation's output."""
    out: Tensor = operation(state.relu if isinstance(operation, AfterReLU) else state.value)
    return out


class ReLUConv(AfterReLU):
    """ReLU, convolutions, norm."""

    def __init__(self, *convolutions: nn.Module, channels: int, norm: bool, device: Device) -> None:
        super().__init__()
        self.op = Numbered(None, *convolutions, norm_layer(channels, norm, device))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C', H', W')."""
        out: Tensor = self.op(x_BCHW)
        return out


def convolution(
    channels_in: int, channels: int, kernel: int, stride: int, norm: bool, device: Device
) -> nn.Module:
    """A dense k x k convolution."""
    conv = DenseConv2d(channels_in, channels, kernel, stride, kernel // 2, device=device)
    return ReLUConv(conv, channels=channels, norm=norm, device=device)


def factorised_convolution(
    channels: int, kernel: int, stride: int, norm: bool, device: Device
) -> nn.Module:
    """A 1 x k convolution and a k x 1 convolution."""
    across = Conv2d(channels, channels, (1, kernel), (1, stride), (0, kernel // 2), device=device)
    down = Conv2d(channels, channels, (kernel, 1), (stride, 1), (kernel // 2, 0), device=device)
    return ReLUConv(across, down, channels=channels, norm=norm, device=device)


def dilated_convolution(
    channels: int, kernel: int, stride: int, norm: bool, device: Device
) -> nn.Module:
    """A depthwise k x k convolution of dilation 2 and a 1 x 1 convolution."""
    first = Depthwise(channels, kernel, stride, 2, device)
    second = Conv2d(channels, channels, 1, device=device)
    return ReLUConv(first, second, channels=channels, norm=norm, device=device)


class SeparableConvolution(AfterReLU):
    """Twice: ReLU, depthwise k x k convolution, 1 x 1 convolution, norm. Only the first one
    strides.
    """

    def __init__(self, channels: int, kernel: int, stride: int, norm: bool, device: Device) -> None:
        super().__init__()
        layers: list[nn.Module | Literal["r"] | None] = []
        for step in (stride, 1):
            layers += [
                "r" if layers else None,
                Depthwise(channels, kernel, step, device=device),
                Conv2d(channels, channels, 1, device=device),
                norm_layer(channels, norm, device),
            ]
        self.op = Numbered(*layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H', W')."""
        out: Tensor = self.op(x_BCHW)
        return out


class FactorizedReduce(AfterReLU):
    """Halves the resolution by two strided 1 x 1 convolutions of C/2 channels each, on grids one
    pixel apart.
    """

    def __init__(self, channels_in: int, channels: int, norm: bool, device: Device) -> None:
        super().__init__()
        self.conv_1 = Conv2d(channels_in, channels // 2, 1, device=device)
        self.conv_2 = Conv2d(channels_in, channels // 2, 1, device=device)
        self.bn = norm_layer(channels, norm, device)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H/2, W/2)."""
        # Taking every second pixel first is faster than a stride, which is slow to differentiate.
        halves = self.conv_1(x_BCHW[:, :, ::2, ::2]), self.conv_2(x_BCHW[:, :, 1::2, 1::2])
        out = torch.cat(halves, dim=1)
        return out if self.bn is None else self.bn(out)


class Subsample(nn.Module):
    """Every second pixel, for networks without preprocessing."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H/2, W/2)."""
        return x_BCHW[:, :, ::2, ::2]


class SqueezeExcitation(nn.Module):
    """Channel squeeze-and-excitation (Hu et al., 2018) with a hard-swish gate."""

    def __init__(self, channels: int, stride: int, device: Device) -> None:
        super().__init__()
        self.stride = stride
        self.fc1 = Linear(channels, channels // 2, device=device)
        self.fc2 = Linear(channels // 2, channels, device=device)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H', W')."""
        gate_BC = F.hardswish(self.fc2(F.relu(self.fc1(x_BCHW.flatten(2).mean(dim=2)))))
        out = x_BCHW * gate_BC[:, :, None, None]
        return out if self.stride == 1 else out[:, :, :: self.stride, :: self.stride]


class _Attention(nn.Module):
    def __init__(self, channels: int, device: Device) -> None:
        super().__init__()
        self.to_qkv = Linear(channels, 3 * channels, bias=False, device=device)
        self.to_out = Numbered(Linear(channels, channels, device=device))

    def forward(self, x_BTC: Tensor) -> Tensor:
        b, t, c = x_BTC.shape
        qkv = self.to_qkv(x_BTC).reshape(b, t, 3, HEADS, c // HEADS)
        if switch.fast(x_BTC) and torch.is_grad_enabled():
            out = attention.attend(qkv)
        else:
            out = (
                F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
                .transpose(1, 2)
                .reshape(b, t, c)
            )
        projected: Tensor = self.to_out(out)
        return projected


class _FeedForward(nn.Module):
    def __init__(self, channels: int, device: Device) -> None:
        super().__init__()
        # The published names leave number 2 to a dropout of rate 0.
        first, second = (Linear(channels, channels, device=device) for _ in range(2))
        self.net = Numbered(first, nn.GELU(), None, second)

    def forward(self, x_BTC: Tensor) -> Tensor:
        out: Tensor = self.net(x_BTC)
        return out


class Transformer(nn.Module):
    """A pre-norm transformer layer on the pixels (msa)."""

    def __init__(self, channels: int, device: Device) -> None:
        super().__init__()
        self.ln1 = LayerNorm(channels, device=device)
        self.attn = _Attention(channels, device)
        self.ln2 = LayerNorm(channels, device=device)
        self.ff = _FeedForward(channels, device)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W)."""
        b, c, h, w = x_BCHW.shape
        x_BTC: Tensor = x_BCHW.flatten(2).transpose(1, 2)
        x_BTC = x_BTC + self.attn(self.ln1(x_BTC))
        x_BTC = x_BTC + self.ff(self.ln2(x_BTC))
        return x_BTC.transpose(1, 2).reshape(b, c, h, w)


class PositionalEncoding(nn.Module):
    """Adds a learned tensor."""

    def __init__(self, channels: int, grid: int, device: Device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, channels, grid, grid, device=device))
        if not self.weight.is_meta:
            nn.init.normal_(self.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W)."""
        return x_BCHW + self.weight


def operation(
    name: str, channels: int, stride: int, norm: bool, device: Device = None
) -> nn.Module:
    """The module of an operation (one of `search_space.OPERATIONS`, not none)."""
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, norm, device)
    if name == "msa":
        return Transformer(channels, device)
    if name == "cse":
        return SqueezeExcitation(channels, stride, device)
    if name == "conv_7x1_1x7":
        return factorised_convolution(channels, 7, stride, norm, device)
    kind, size = name.rsplit("_", 1)
    kernel = int(size.split("x")[0])
    if kind == "max_pool":
        return nn.MaxPool2d(kernel, stride, kernel // 2)
    if kind == "avg_pool":
        return nn.AvgPool2d(kernel, stride, kernel // 2, count_include_pad=False)
    if kind == "conv":
        return convolution(channels, channels, kernel, stride, norm, device)
    if kind == "dil_conv":
        return dilated_convolution(channels, kernel, stride, norm, device)
    return SeparableConvolution(channels, kernel, stride, norm, device)
