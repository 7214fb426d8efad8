"""What an epoch of ImageNet costs for each of the 974 evaluation architectures: the numbers of
docs/scale.md.

    python benchmarks/architecture_cost.py [--measure 4] [--threads 1] [--out costs.json]

Counts the multiply-accumulates of a forward pass of all 974 at 224 pixels and 1000 classes (on
tensors without data), and measures a training step (forward, backward, SGD) of some of each split
on this machine's CPU. A split's cost in training steps of ResNet-50 is its multiply-accumulates
times the measured seconds per multiply-accumulate, both relative to ResNet-50's. Hours on GPUs
follow from ResNet-50's, which the paper states.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, median

import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from datasets.deepnets import Network
from flows.experiments.cost import A100_FLOPS, IMAGENET_IMAGES, RESNET50_GMACS
from flows.networks.build import CHANNELS, gmacs
from flows.networks.targets import ArchitecturesConfig, Target, open_split, targets
from flows.settings import paths
from ghn.architectures import build

IMAGE_SIZE, CLASSES = 224, 1000
RESNET50 = Target("resnet50", "torchvision")
RESNET50_HOURS = 2 * 3 * RESNET50_GMACS * 1e9 * IMAGENET_IMAGES / A100_FLOPS / 3600
"""GPU hours of an epoch: 0.4 days on four A100 for 90 epochs (paper, section 5)."""


def image_size(target: Target) -> int:
    return 299 if target.id == "inception_v3" else IMAGE_SIZE


def network(target: Target, device: str = "cpu") -> nn.Module:
    """Without its graph, which `flows.networks.build.build_network` makes too."""
    if target.index is None:
        return build(target.id, num_classes=CLASSES, image_size=image_size(target), device=device)
    channels = CHANNELS * (2 if target.split == "wide" else 1)
    architecture = open_split(paths.DEEPNETS, target.split)[target.index]
    shape = {"channels": channels, "num_classes": CLASSES, "image_size": IMAGE_SIZE}
    return Network(architecture, **shape, device=torch.device(device))


def seconds_per_image(target: Target, batch: int, repeats: int) -> float:
    """Of a training step, the fastest of `repeats` (after one that does not count)."""
    model = network(target).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9, weight_decay=3e-5)
    images = torch.randn(batch, 3, image_size(target), image_size(target)).to(
        memory_format=torch.channels_last
    )
    labels = torch.randint(CLASSES, (batch,))
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        optimiser.zero_grad()
        functional.cross_entropy(logits(model(images)), labels).backward()
        optimiser.step()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:]) / batch


def logits(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]  # auxiliary heads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", type=int, default=4, help="networks of each split to measure")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="every count and every measurement, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}")

    splits: dict[str, list[Target]] = defaultdict(list)
    for target in targets(ArchitecturesConfig()):
        splits[target.split].append(target)
    everything = [target for members in splits.values() for target in members]
    counts = {
        target.id: gmacs(network(target, "meta"), image_size(target)) for target in tqdm(everything)
    }
    reference = seconds_per_image(RESNET50, options.batch, options.repeats)
    print(f"resnet50: {counts['resnet50']:.2f} GMACs, {1e3 * reference:.0f} ms an image")

    measured: dict[str, float] = {}
    total = longest = plain = 0.0
    print(
        "split, networks, mean and largest GMACs, ms a GMAC (median, of), resnet50 steps an image"
        " (mean)"
    )
    for split, members in splits.items():
        by_cost = sorted(members, key=lambda target: counts[target.id])
        chosen = by_cost[
            len(members) // (2 * options.measure) :: max(1, len(members) // options.measure)
        ]
        for target in chosen[: options.measure]:
            measured[target.id] = seconds_per_image(target, options.batch, options.repeats)
        rates = [measured[target.id] / counts[target.id] for target in chosen[: options.measure]]
        cost = [counts[target.id] * median(rates) / reference for target in members]
        total += sum(cost)
        plain += sum(counts[target.id] for target in members)
        longest = max(longest, max(cost))
        print(
            f"{split:12} {len(members):4} {mean(counts[t.id] for t in members):6.2f} "
            f"{counts[by_cost[-1].id]:6.2f} ({by_cost[-1].id}) {1e3 * median(rates):6.1f} "
            f"({1e3 * min(rates):.1f} to {1e3 * max(rates):.1f} of {len(rates)}) {mean(cost):6.3f}",
            flush=True,
        )
    hours = total * RESNET50_HOURS
    by_count = plain / counts["resnet50"] * RESNET50_HOURS
    print(
        f"974 networks: {plain:.0f} GMACs an image; an epoch of ImageNet: {hours:.0f} GPU hours"
        f" ({by_count:.0f} by"
    )
    print(
        f"multiply-accumulates alone), {RESNET50_HOURS:.3f} for resnet50,"
        f" {longest * RESNET50_HOURS:.1f} the longest"
    )
    for gpus in (8, 64, 512):
        print(
            f"  {gpus:4} GPUs: {hours / gpus:6.1f} h by work,"
            f" {max(hours / gpus, longest * RESNET50_HOURS):6.1f} h"
        )
    if options.out:
        options.out.write_text(
            json.dumps({"gmacs": counts, "seconds": measured, "resnet50": reference}, indent=1)
        )


if __name__ == "__main__":
    main()
