"""Depthwise convolutions as sequences of operations that a CPU is quick to differentiate.

oneDNN takes up to ten times as long to differentiate a depthwise convolution that is dilated, or
whose kernel is larger than the image, as other ones.

Shape legend: B images, C channels, H x W pixels, K x K a kernel.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def convolve(x_BCHW: Tensor, w_C1KK: Tensor, stride: int, dilation: int) -> Tensor:
    """`conv2d(x, w, None, stride, k // 2 * dilation, dilation, C)` for an odd k, strides and
    dilations of 1 and 2.
    """
    c, k, height, width = len(w_C1KK), w_C1KK.shape[2], *x_BCHW.shape[2:]
    if dilation == 1:
        return (
            _dense(x_BCHW, w_C1KK)
            if stride == 1
            else F.conv2d(x_BCHW, w_C1KK, None, stride, k // 2, 1, c)
        )
    # An output pixel reads pixels whose row and column are both as odd or even as its own: each of
    # the four grids of every second pixel is convolved by itself, without dilation. With stride 2
    # only one of them is needed.
    if stride == 2:
        return _dense(x_BCHW[:, :, ::2, ::2], w_C1KK)
    return _join_grids(_dense(_take_grids(x_BCHW), w_C1KK), height, width)


def _dense(x_BCHW: Tensor, w_C1KK: Tensor) -> Tensor:
    """The convolution without stride and dilation."""
    b, c, height, width = x_BCHW.shape
    k = w_C1KK.shape[2]
    if height >= k:
        return F.conv2d(x_BCHW, w_C1KK, None, 1, k // 2, 1, c)
    # One image made of all images on top of each other, with zeros in between.
    stack = (
        F.pad(x_BCHW, (0, 0, 0, k // 2))
        .permute(0, 2, 3, 1)
        .reshape(1, -1, width, c)
        .permute(0, 3, 1, 2)
    )
    out = F.conv2d(stack, w_C1KK, None, 1, k // 2, 1, c)
    return out.permute(0, 2, 3, 1).reshape(b, -1, width, c)[:, :height].permute(0, 3, 1, 2)


def _take_grids(x_BCHW: Tensor) -> Tensor:
    """(4 B, C, H / 2, W / 2): the pixels of even and odd rows and columns; an odd side is filled up
    with zeros.
    """
    b, c, height, width = x_BCHW.shape
    x_BHWC = F.pad(x_BCHW, (0, width % 2, 0, height % 2)).permute(0, 2, 3, 1)
    h, w = x_BHWC.shape[1] // 2, x_BHWC.shape[2] // 2
    return (
        x_BHWC.reshape(b, h, 2, w, 2, c)
        .permute(0, 2, 4, 1, 3, 5)
        .reshape(4 * b, h, w, c)
        .permute(0, 3, 1, 2)
    )


def _join_grids(grids: Tensor, height: int, width: int) -> Tensor:
    """(B, C, H, W): the inverse of `_take_grids`."""
    n, c, h, w = grids.shape
    out = grids.permute(0, 2, 3, 1).reshape(n // 4, 2, 2, h, w, c).permute(0, 3, 1, 4, 2, 5)
    return out.reshape(n // 4, 2 * h, 2 * w, c).permute(0, 3, 1, 2)[:, :, :height, :width]
