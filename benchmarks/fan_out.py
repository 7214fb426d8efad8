"""What fan-out costs per item, and what an architecture costs: the numbers of docs/scale.md.

    python benchmarks/fan_out.py [--items 2000] [--per-split 20] [--ray]

Prints: seconds per item of `fan_out` for a function that does nothing (local processes; a Ray cluster of two local
nodes with --ray); and for DeepNets-1M and torchvision at 224 pixels and 1000 classes the multiply-accumulates of a
forward pass, counted on tensors without data, with what follows for one epoch of ImageNet on GPUs like the paper's.
"""

from __future__ import annotations

import argparse
import platform
import time
from statistics import mean

import torch
from torch.utils.flop_counter import FlopCounterMode

from flows.experiments.cost import A100_FLOPS, IMAGENET_IMAGES
from flows.fanout import FanOut, fan_out
from ghn.architectures import TORCHVISION_74, build

SPLITS = {"test": 500, "wide": 100, "deep": 100, "dense": 100, "bnfree": 100}
"""Architectures of each evaluation split."""


def nothing(item: int) -> int:
    return item


def seconds_per_item(config: FanOut, items: int) -> float:
    list(fan_out(nothing, range(4), config))  # workers and imports
    started = time.perf_counter()
    count = sum(1 for _ in fan_out(nothing, range(items), config, title="dispatch"))
    assert count == items
    return (time.perf_counter() - started) / items


def gmacs(model: torch.nn.Module, image_size: int = 224) -> float:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(torch.empty(1, 3, image_size, image_size, device="meta"))
    return float(counter.get_total_flops()) / 2e9


def torchvision_gmacs() -> dict[str, float]:
    return {name: gmacs(build(name, device="meta"), 299 if name == "inception_v3" else 224) for name in TORCHVISION_74}


def deepnets_gmacs(split: str, per_split: int) -> list[float]:
    from datasets.deepnets import Network, open_split

    opened = open_split("data/deepnets1m", split)
    channels = 64 if split == "wide" else 32
    chosen = range(0, len(opened), max(1, len(opened) // per_split))
    return [
        gmacs(Network(opened[i], channels=channels, num_classes=1000, image_size=224, device="meta")) for i in chosen
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=2000, help="0: only count multiply-accumulates")
    parser.add_argument("--per-split", type=int, default=20)
    parser.add_argument("--ray", action="store_true")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")

    if options.items:
        print(f"local, 2 workers: {1e3 * seconds_per_item(FanOut(workers=2), options.items):.2f} ms an item")
    if options.items and options.ray:
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        config = FanOut(backend="ray", address=cluster.address)
        print(f"Ray, 2 nodes of 1 CPU: {1e3 * seconds_per_item(config, options.items):.2f} ms an item")
        cluster.shutdown()

    vision = torchvision_gmacs()
    total = sum(vision.values())
    print(f"torchvision: {len(vision)} networks, {total:.0f} GMACs an image together, mean {total / len(vision):.2f}")
    largest = sorted(vision.items(), key=lambda entry: -entry[1])[:3]
    print("  largest: " + ", ".join(f"{name} {value:.1f}" for name, value in largest))
    for split, count in SPLITS.items():
        values = deepnets_gmacs(split, options.per_split)
        total += mean(values) * count
        print(f"{split}: mean {mean(values):.2f} GMACs of {len(values)}, largest {max(values):.2f}")
    operations = total * 1e9 * 2 * 3 * IMAGENET_IMAGES
    hours = operations / A100_FLOPS / 3600
    print(
        f"974 networks, 1 epoch of ImageNet: {operations:.2e} operations, {hours:,.0f} GPU hours at {A100_FLOPS:.1e}/s"
    )
    longest = max(vision.values()) * 1e9 * 2 * 3 * IMAGENET_IMAGES / A100_FLOPS / 3600
    for gpus in (8, 64, 512):
        print(f"  {gpus:4} GPUs: {max(hours / gpus, longest):,.1f} h (the largest network alone: {longest:.1f} h)")


if __name__ == "__main__":
    main()
