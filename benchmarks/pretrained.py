"""Accuracy of predicted, untrained parameters on architectures a hypernetwork has not seen: the model card's numbers.

    python benchmarks/pretrained.py --params params.yaml models/ghn3/ghn.safetensors

Run where `ghn generate` (val, test) and `ghn images` have left their files. Networks of val and test have C = 32,
torchvision models the small-image stem; batch norm uses batch statistics, batches of 64 test images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from flows import paths
from flows.architectures import TORCHVISION, Target, build, open_split
from flows.params import load_params
from flows.stages.evaluate import score
from flows.stages.images import load_split
from ghn.checkpoint import from_pretrained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?", help="a file, or nothing for the hypernetwork of the package")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--architectures", type=int, default=100, help="of val and of test")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--torchvision", nargs="*", default=["resnet18", "resnet50"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    params = load_params(options.params)
    ghn = from_pretrained(options.weights)
    images = load_split(params, "test")
    batches = list(images.batches(64, seed=1, drop_last=True))[: options.images // 64]
    targets = [
        Target(f"deepnets1m/{split}/{index}", split, index)
        for split in ("val", "test")
        for index in range(min(options.architectures, len(open_split(paths.DEEPNETS, split))))
    ] + [Target(name, TORCHVISION) for name in options.torchvision]
    accuracies: dict[str, dict[str, tuple[float, float]]] = {}
    begin = time.perf_counter()
    for target in targets:
        torch.manual_seed(1)
        model, graph = build(target, images.num_classes, images.image_size)
        random = score(model, batches).accuracy
        accuracies.setdefault(target.split, {})[target.id] = (score(ghn(model, graph), batches).accuracy, random)
    seconds = time.perf_counter() - begin
    print(f"{64 * len(batches)} test images of {images.name}, chance {1 / images.num_classes:.0%}, {seconds:.0f} s\n")
    print("| architectures | predicted: mean | std | best | random: mean | best |\n|---|---|---|---|---|---|")
    for split, values in accuracies.items():
        if split == TORCHVISION:
            continue
        own, other = zip(*values.values(), strict=True)
        cells = [statistics.mean(own), statistics.pstdev(own), max(own), statistics.mean(other), max(other)]
        print(f"| {len(own)} of {split} | " + " | ".join(f"{cell:.1%}" for cell in cells) + " |")
    for name, (accuracy, random) in accuracies.get(TORCHVISION, {}).items():
        print(f"| {name} | {accuracy:.1%} | | | {random:.1%} | |")
    if options.json:
        options.json.write_text(json.dumps(accuracies, indent=2))


if __name__ == "__main__":
    main()
