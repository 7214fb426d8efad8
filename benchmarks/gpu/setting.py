"""What the parts of `run.py` have in common: sizes, time, and what they say."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from datasets.deepnets import GenerateConfig, MetaBatchConfig, MetaBatches, generate_split
from ghn.models import GHN, GHNConfig


@dataclass(frozen=True)
class Setting:
    """What a part is told."""

    device: torch.device
    tiny: bool
    out: Path
    seconds: float
    reference: dict[str, Path]


@dataclass(frozen=True)
class Size:
    """m networks of width C, b images of some pixels, and the hypernetwork's classes."""

    m: int
    b: int
    pixels: int
    channels: int
    classes: int

    def hypernetwork(self) -> GHN:
        """GHN-3-T's layers and width."""
        return GHN(
            GHNConfig(
                num_classes=self.classes,
                decoder_kernel=16 if self.pixels > 64 else 11,
                decoder_channels=64 if self.pixels > 64 else 32,
                hidden=64 if self.pixels > 64 else 32,
            )
        )


CIFAR, IMAGENET = Size(8, 64, 32, 32, 10), Size(8, 128, 224, 32, 1000)
TINY, TINY_LARGE = Size(2, 4, 16, 16, 10), Size(2, 2, 96, 16, 10)


def say(**found: object) -> None:
    """Reports what was found so far."""
    print(json.dumps({"found": found}), flush=True)


def drawn(size: Size, seed: int = 1, world: int = 1, rank: int = 0, n: int = 200) -> MetaBatches:
    """Meta-batches of the published rules, made here."""
    directory = tempfile.mkdtemp()
    config = GenerateConfig(shard_size=100, splits={"train": {"size": n}})
    split = generate_split(directory, "train", config, seed).split
    widths = MetaBatchConfig(channels=(size.channels, size.channels))
    return MetaBatches(
        split, size.m, size.classes, size.pixels, seed=seed, rank=rank, world=world, config=widths
    )


def wait(device: torch.device) -> None:
    """Waits for all that the device was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(do: Callable[[], object], device: torch.device) -> float:
    """Seconds, the device's included."""
    wait(device)
    begin = time.perf_counter()
    do()
    wait(device)
    return time.perf_counter() - begin
