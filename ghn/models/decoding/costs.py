"""What decoding costs beside its arithmetic: constants of a device."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Costs:
    """What decides which tensors are decoded together.

    Attributes:
        read_rows: a matrix product reads its weights, which takes as long as the arithmetic of this
            many rows.
        copy_rows: likewise for copying a block out of the weights.
        call: of an operation, in multiply-adds.
        chunk_bytes: largest piece that is decoded at a time where tensors are written in pieces; a
            single output channel of all parameters of a bucket may exceed it.
        small: most numbers of a tensor that is repeated in memory of its own, which then needs no
            calls of its own to be written.
    """

    read_rows: int
    copy_rows: int
    call: int
    chunk_bytes: int
    small: int


CPU = Costs(read_rows=18, copy_rows=16, call=500_000, chunk_bytes=16 * 2**20, small=4096)
"""Measured on one core; a chunk stays in the cache."""

GPU = Costs(read_rows=120, copy_rows=240, call=10**9, chunk_bytes=256 * 2**20, small=4 * 2**20)
"""Of an H100's data sheet, not measured: 10^14 multiply-adds a second (TF32, at 40 % of its peak),
so that 10 microseconds to launch a kernel are 10^9 of them, and 3.35 TB/s, so that to read the 4
bytes of a weight takes as long as 120 of them, to copy them twice as long. Chunks only bound memory
there. A tensor that is written in parts takes some ten launches; in that time ten million numbers
are copied.
"""


def costs(device: torch.device) -> Costs:
    """Those of the kind of device."""
    return CPU if device.type == "cpu" else GPU
