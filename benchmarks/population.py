"""The package's hypernetwork adapted to torchvision: trained on cheap networks of the paper's 74,
evaluated on others before and after, families that were trained on apart from those that were not.

    python benchmarks/population.py

CIFAR-10 at 16 pixels; accuracy of predicted parameters without training, batch norm by the
statistics of batches of 64 test images. Networks are sorted by multiply-accumulates at this size:
the first 37 are the cheap half. Of it the families HELD_OUT are left out. Of the other half those
above --max-gmacs take too long for a benchmark and are left out, as are those above --train-gmacs
of the cheap half.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import torch

from datasets.deepnets import meta_batches
from datasets.deepnets.space.widths import MetaBatchConfig
from datasets.images import load
from flows.networks.build import build_network, forward_gmacs
from flows.networks.score import score
from flows.settings.population import PopulationEntry
from flows.training.population import Population, PopulationBatches
from ghn import GHN, from_pretrained
from ghn.architectures import TORCHVISION_74
from ghn.train import ProgressBar, TrainConfig, train

HELD_OUT = (
    "alexnet",
    "squeezenet",
    "densenet",
    "vgg",
    "googlenet",
    "inception",
    "swin",
    "convnext",
    "vit",
)


def family(name: str) -> str:
    """What a name begins with: resnet of wide_resnet50_2 and resnext50_32x4d too."""
    found = re.match(r"(?:wide_)?([a-z]+)", name)
    assert found is not None
    return found[1].replace("resnext", "resnet")


def accuracies(ghn: GHN, names: list[str], size: int, batches: list) -> dict[str, float]:
    """Of each network with predicted parameters."""
    found = {}
    for name in names:
        torch.manual_seed(0)  # of what is not predicted
        model, graph = build_network(name, 10, size)
        found[name] = score(ghn(model, graph), batches).accuracy
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--size", type=int, default=16, help="side of the images, in pixels")
    parser.add_argument("--max-gmacs", type=float, default=0.7, help="of evaluated networks")
    parser.add_argument("--train-gmacs", type=float, default=0.03, help="of trained networks")
    parser.add_argument("--images", type=int, default=128, help="test images")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)

    costs = {name: forward_gmacs(name, 10, asked.size) for name in TORCHVISION_74}
    by_cost = sorted(costs, key=costs.__getitem__)
    cheap, other = by_cost[:37], by_cost[37:]
    trained = [n for n in cheap if family(n) not in HELD_OUT and costs[n] <= asked.train_gmacs]
    evaluated = [name for name in other if costs[name] <= asked.max_gmacs]
    held = [name for name in cheap if family(name) in HELD_OUT]
    print(f"trained on {len(trained)}: {', '.join(trained)}", flush=True)
    skipped = len(other) - len(evaluated)
    print(f"not evaluated: {skipped} above {asked.max_gmacs} GMACs", flush=True)

    images = load("cifar10", split="train", image_size=asked.size)
    test = load("cifar10", split="test", image_size=asked.size)
    batches = list(test.batches(64, asked.seed, drop_last=True))[: asked.images // 64]
    ghn = from_pretrained()
    names = [*evaluated, *held]
    started = time.process_time()
    before = accuracies(ghn, names, asked.size, batches)
    print(f"evaluated in {time.process_time() - started:.0f} s of one core", flush=True)

    recipe = TrainConfig(
        steps=asked.steps, warmup_steps=asked.steps // 10, meta_batch_size=4, batch_size=32,
        lr=3e-4, network_clip=0.5, seed=asked.seed,
    )  # fmt: skip
    population = Population([PopulationEntry(networks=name) for name in trained])
    members = population.members(10, asked.size, asked.seed)
    dataset = PopulationBatches(population, members, 4, MetaBatchConfig(max_nodes=6000), asked.seed)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as directory:
        bar = [ProgressBar()]
        train(recipe, ghn, partial(meta_batches, dataset), images, Path(directory), callbacks=bar)
    print(f"{asked.steps} steps in {time.process_time() - started:.0f} s of one core", flush=True)
    after = accuracies(ghn.eval(), names, asked.size, batches)
    report(names, before, after, {family(name) for name in trained}, set(evaluated))


def report(
    names: list[str],
    before: dict[str, float],
    after: dict[str, float],
    known: set[str],
    other: set[str],
) -> None:
    """Prints every network, and means of the groups."""
    groups = defaultdict(list)
    for name in names:
        seen = "families trained on" if family(name) in known else "families held out"
        half = "other half" if name in other else "cheap half"
        groups[f"{half}, {seen}"].append(name)
    for title, members in groups.items():
        for name in members:
            print(f"| {name} | {before[name]:.1%} | {after[name]:.1%} |")
        first, second = (statistics.mean(of[n] for n in members) for of in (before, after))
        print(f"| **{title}** ({len(members)}) | {first:.1%} | {second:.1%} |")


if __name__ == "__main__":
    main()
