"""Pixels as pictures of a page: PNG in a data URI, the same bytes for the same pixels."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray


def png(pixels_HWC: NDArray[np.uint8]) -> str:
    """A data URI of the colour picture (height, width, 3)."""
    height, width, _ = pixels_HWC.shape
    rows = np.ascontiguousarray(pixels_HWC).reshape(height, width * 3)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)  # each row with filter type 0
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, content)
        for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    )
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def filter_grid(filters_N3KK: NDArray[np.float32], columns: int = 4) -> NDArray[np.uint8]:
    """Filters as colours, `columns` a row, each stretched to the full range, one pixel apart."""
    count, _, height, width = filters_N3KK.shape
    rows = -(-count // columns)
    grid = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), 255, np.uint8)
    for number, values in enumerate(filters_N3KK):
        low, high = float(values.min()), float(values.max())
        scaled = (values - low) / (high - low) if high > low else np.full_like(values, 0.5)
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        colours = np.moveaxis(np.round(255 * scaled).astype(np.uint8), 0, -1)
        grid[top : top + height, left : left + width] = colours
    return grid
