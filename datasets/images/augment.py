"""Augmentation: of whole batches of small images by one gather, of single large images by a crop.

Shape legend: B images, C channels, H x W pixels, S the side of a crop.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad


def crop_and_flip(
    images_BCHW: Tensor, generator: torch.Generator, padding: int, flip: bool
) -> Tensor:
    """Pads every image with black, cuts a window of the old size at a random place, mirrors half of
    them.

    Args:
        images_BCHW: uint8 (or any type), square or not.
        generator: source of the draws, on the CPU, so that they do not depend on the device of the
            images.
        padding: pixels on each side; 4 is customary at 32 pixels.
        flip: whether to mirror left to right with probability 1/2.

    Returns:
        A new tensor of the same shape in channels-last memory order.
    """
    b, _, height, width = images_BCHW.shape
    top_B = torch.randint(2 * padding + 1, (b, 1), generator=generator, device="cpu")
    left_B = torch.randint(2 * padding + 1, (b, 1), generator=generator, device="cpu")
    row_BH = top_B + torch.arange(height, device="cpu")
    column_BW = left_B + torch.arange(width, device="cpu")
    if flip:
        mirrored_B1 = torch.rand((b, 1), generator=generator, device="cpu") < 0.5
        column_BW = torch.where(mirrored_B1, column_BW.flip(1), column_BW)
    device = images_BCHW.device
    padded_BHWC = pad(images_BCHW, (padding,) * 4).permute(0, 2, 3, 1)
    return padded_BHWC[
        torch.arange(b, device=device)[:, None, None],
        row_BH.to(device)[:, :, None],
        column_BW.to(device)[:, None, :],
    ].permute(0, 3, 1, 2)


def normalize(images_BCHW: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 images to float32 with mean 0 and deviation 1 per channel, in channels-last memory
    order.

    Args:
        images_BCHW: uint8.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
    """
    scale_C11, shift_C11 = _constants(tuple(mean), tuple(std), images_BCHW.device)
    images = images_BCHW.to(torch.float32, memory_format=torch.channels_last)
    return images.mul_(scale_C11).sub_(shift_C11)


@functools.cache
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Scale and shift of `normalize`, sent to a device once: sending waits for a GPU."""
    scale_C11 = (1 / (255 * torch.tensor(std)))[:, None, None]
    shift_C11 = (torch.tensor(mean) / torch.tensor(std))[:, None, None]
    return scale_C11.to(device), shift_C11.to(device)


def to_device(images: Tensor, labels: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """A batch on `device`. From page-locked memory the copy goes on while others compute."""
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        images, labels = images.pin_memory(), labels.pin_memory()
    return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def random_resized_crop(
    image: Image.Image, size: int, draw: np.random.Generator, flip: bool
) -> Image.Image:
    """A window of 8 to 100 % of the area and aspect ratio 3/4 to 4/3, resized to `size`, mirrored
    half of the time.
    """
    width, height = image.size
    for _ in range(10):
        area = width * height * draw.uniform(0.08, 1.0)
        ratio = np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draw.integers(width - w + 1)), int(draw.integers(height - h + 1))
            break
    else:  # a very long image: its centre, at the nearest allowed ratio
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
    image = image.resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + w, top + h)
    )
    mirrored = flip and draw.random() < 0.5
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
