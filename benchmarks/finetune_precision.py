"""Seconds of a step of fine-tuning in float32 and in bfloat16 (`FinetuneConfig.amp`), by network.

    python benchmarks/finetune_precision.py shufflenet_v2_x0_5 resnet18 deepnets1m/wide/26

One thread, batches of 64 digits at 32 pixels, random parameters; the fastest of a few steps after
the first. Networks of DeepNets-1M need the files of `ghn generate`.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

import torch

from datasets.images import ImageTensors, load
from flows.networks.build import build_network
from ghn.finetune import FinetuneConfig, finetune


def seconds(architecture: str, train: ImageTensors, amp: bool, steps: int) -> float:
    """Of the fastest step but the first."""
    torch.manual_seed(0)
    model, _ = build_network(architecture, 10, 32)
    config = FinetuneConfig(steps=steps, lr=0.01, batch_size=64, statistics_images=64, amp=amp)
    ends: list[float] = []
    finetune(
        model,
        train,
        train.subset(range(8)),
        config,
        on_step=lambda _: ends.append(time.perf_counter()),
    )
    return min(end - begin for begin, end in pairwise(ends))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("architectures", nargs="+")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train = load("digits", split="train", cache=None)
    print("| network | float32 | bfloat16 |\n|---|---|---|")
    for architecture in options.architectures:
        full, half = (seconds(architecture, train, amp, options.steps) for amp in (False, True))
        print(f"| {architecture} | {1000 * full:.0f} ms | {1000 * half:.0f} ms |", flush=True)


if __name__ == "__main__":
    main()
