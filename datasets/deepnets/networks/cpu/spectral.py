"""Convolutions with large kernels by the convolution theorem.

On a CPU a dense 5 x 5 or 7 x 7 convolution of 32 and more channels runs at the speed of arithmetic,
with 25 or 49 multiply-adds for every pixel and pair of channels. In the frequency domain there is
about one complex product for every pixel instead, and, because the maps of a cell are small, the
Fourier transforms are a few products with small matrices. Forward and backward together this is 1.5
to 5 times as fast, with the rounding errors of other float32 convolutions (1e-6 relative).
Everything is a differentiable operation of PyTorch, to any order.

Shape legend: B images, C input channels, O output channels, Y x X pixels of a map, N periods of the
transform in rows, M in columns, V = M // 2 + 1 frequencies of a real row (the others are
conjugates), F = N * V frequencies, P anything.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


def pays(x_BCYX: Tensor, w_OCKK: Tensor, stride: int) -> bool:
    """Whether the convolution of `x_BCYX` is faster in the frequency domain."""
    large = w_OCKK.shape[2] >= 5 and stride == 1
    return large and min(w_OCKK.shape[:2]) >= 16 and len(x_BCYX) >= 8


def convolve(x_BCYX: Tensor, w_OCKK: Tensor) -> Tensor:
    """`conv2d(x, w, padding=k // 2)` with stride 1 and an odd k x k kernel.

    Returns:
        (B, O, Y, X), channels last.
    """
    b, c, height, width = x_BCYX.shape
    o, _, k, _ = w_OCKK.shape
    # Maps are periodic in the frequency domain; k // 2 pixels of zeros keep opposite borders apart.
    periods = height + k // 2, width + k // 2
    image = _transform(height, width, *periods, 0, x_BCYX.dtype)
    kernel = _transform(k, k, *periods, k // 2, x_BCYX.dtype)
    xr_FBC, xi_FBC = _spectrum(
        x_BCYX.permute(2, 3, 0, 1).reshape(height, width, b * c), image, (b, c)
    )
    wr_FCO, wi_FCO = _spectrum(w_OCKK.permute(2, 3, 1, 0).reshape(k, k, c * o), kernel, (c, o))
    # What networks call convolution is a correlation: the product with the conjugate.
    yr_FBO = torch.baddbmm(torch.bmm(xr_FBC, wr_FCO), xi_FBC, wi_FCO)
    yi_FBO = torch.baddbmm(torch.bmm(xi_FBC, wr_FCO), xr_FBC, wi_FCO, alpha=-1)
    y_YXP = _inverse(yr_FBO.flatten(1), yi_FBO.flatten(1), image)
    return (
        y_YXP.view(height, width, b, o)
        .permute(2, 3, 0, 1)
        .contiguous(memory_format=torch.channels_last)
    )


class _Transform(NamedTuple):
    """The two-dimensional Fourier transform of a real map of Y x X pixels as real matrices."""

    rows: Tensor
    """(2V, X): real and imaginary part of the transform along a row."""
    real: Tensor
    """(N, 2Y): the real part of the transform along columns, from real and imaginary part of each
    row in turn.
    """
    imaginary: Tensor
    """(N, 2Y): the imaginary part."""
    back: Tensor
    """(X, 2V): the inverse along rows."""


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # kept, and used where gradients are wanted
def _transform(
    height: int, width: int, n: int, m: int, centre: int, dtype: torch.dtype
) -> _Transform:
    """The transform with periods n (columns) and m (rows) of a map whose origin is at pixel
    (centre, centre).
    """
    cos, sin = _waves(width, m, centre, m // 2 + 1)
    # Every frequency of a row but the first, and the last of an even period, stands for itself and
    # its conjugate.
    weight = torch.full_like(cos[:, :1], 2.0)
    weight[0] = 1
    if m % 2 == 0:
        weight[-1] = 1
    rows, back = torch.cat((cos, sin)), torch.cat((cos * weight, sin * weight)).T / (n * m)
    cos, sin = _waves(height, n, centre, n)
    real, imaginary = (
        torch.stack((cos, -sin), dim=2).flatten(1),
        torch.stack((sin, cos), dim=2).flatten(1),
    )
    return _Transform(*(matrix.to(dtype).contiguous() for matrix in (rows, real, imaginary, back)))


def _waves(size: int, period: int, centre: int, frequencies: int) -> tuple[Tensor, Tensor]:
    """(frequencies, size): real and imaginary part of exp(-2 pi i f p / period)."""
    position = torch.arange(size, dtype=torch.float64, device="cpu") - centre
    angle = (
        torch.arange(frequencies, dtype=torch.float64, device="cpu")[:, None]
        * position
        * (-2 * math.pi / period)
    )
    return angle.cos(), angle.sin()


def _spectrum(
    t_YXP: Tensor, transform: _Transform, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """(F, *shape) real and imaginary part of the transform of P real maps."""
    height = len(t_YXP)
    # (2Y, V * P)
    along_rows = torch.bmm(transform.rows.expand(height, -1, -1), t_YXP).view(2 * height, -1)
    real, imaginary = transform.real @ along_rows, transform.imaginary @ along_rows
    return real.view(-1, *shape), imaginary.view(-1, *shape)


def _inverse(real_FP: Tensor, imaginary_FP: Tensor, transform: _Transform) -> Tensor:
    """(Y, X, P) the real maps of P spectra."""
    n, height, p = len(transform.real), transform.real.shape[1] // 2, real_FP.shape[1]
    along_columns = torch.addmm(
        transform.real.T @ real_FP.view(n, -1), transform.imaginary.T, imaginary_FP.view(n, -1)
    )  # (2Y, V * P)
    return torch.bmm(transform.back.expand(height, -1, -1), along_columns.view(height, -1, p))
