"""Layers that the operations are made of: PyTorch's, or what a CPU is quicker to differentiate
(`cpu`).

Shape legend: B images, C channels, H and W pixels. Layers built on the meta device skip their
initialisation, which there is the larger part of building them.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.deepnets.networks.cpu import depthwise, layout, spectral, switch

Device = torch.device | str | None


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
        device: Device = None,
    ) -> None:
        super().__init__(
            channels_in,
            channels_out,
            kernel,
            stride,
            padding,
            dilation,
            groups,
            bias=False,
            device=device,
        )

    def reset_parameters(self) -> None:
        """PyTorch's default initialisation."""
        if not self.weight.is_meta:
            super().reset_parameters()


class DenseConv2d(Conv2d):
    """A dense k x k convolution; on a CPU, large kernels go through the frequency domain
    (`spectral`).
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C', H', W')."""
        if switch.fast(x_BCHW) and spectral.pays(x_BCHW, self.weight, self.stride[0]):
            return spectral.convolve(x_BCHW, self.weight)
        return super().forward(x_BCHW)


class Depthwise(Conv2d):
    """A k x k convolution of every channel by itself."""

    def __init__(
        self, channels: int, kernel: int, stride: int, dilation: int = 1, device: Device = None
    ) -> None:
        padding = kernel // 2 * dilation
        super().__init__(channels, channels, kernel, stride, padding, dilation, channels, device)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H', W')."""
        if switch.fast(x_BCHW) and torch.is_grad_enabled():
            return depthwise.convolve(x_BCHW, self.weight, self.stride[0], self.dilation[0])
        return super().forward(x_BCHW)


class Linear(nn.Linear):
    """A linear layer."""

    def reset_parameters(self) -> None:
        """PyTorch's default initialisation."""
        if not self.weight.is_meta:
            super().reset_parameters()


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each token."""

    def reset_parameters(self) -> None:
        """Ones and zeros."""
        if not self.weight.is_meta:
            super().reset_parameters()


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of the batch, in evaluation too: running ones are not
    predicted.
    """

    def __init__(self, channels: int, device: Device = None) -> None:
        super().__init__(channels, track_running_stats=False, device=device)

    def reset_parameters(self) -> None:
        """Ones and zeros."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W)."""
        out: Tensor = super().forward(x_BCHW)
        return layout.keep_gradient(out, x_BCHW) if x_BCHW.device.type == "cpu" else out


class Numbered(nn.Module):
    """Layers under given numbers, applied in order. "r" stands for a ReLU, which needs no module
    and takes a number.

    The published names count such layers (`op.1.weight` is behind a ReLU `op.0`); None takes a
    number and does nothing.
    """

    def __init__(self, *layers: nn.Module | Literal["r"] | None) -> None:
        super().__init__()
        steps: list[str] = []
        for number, layer in enumerate(layers):
            if layer == "r":
                steps.append("r")
            elif isinstance(layer, nn.Module):
                self._modules[str(number)] = layer
                steps.append(str(number))
        self.steps = tuple(steps)

    def forward(self, x: Tensor) -> Tensor:
        """The output of the last layer."""
        for step in self.steps:
            x = F.relu(x) if step == "r" else self._modules[step](x)  # type: ignore[misc]
        return x


def norm_layer(channels: int, norm: bool, device: Device = None) -> nn.Module | None:
    """Batch norm, or nothing."""
    return BatchNorm2d(channels, device) if norm else None
