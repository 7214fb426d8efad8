"""A hypernetwork adapted to torchvision: trained on cheap networks of the paper's 74, evaluated on
others before and after, families that were trained on apart from those that were not.

    ghn run                                # weights of digits, and the split that is mixed in
    python benchmarks/population.py        # reads models/ghn3 and data/deepnets1m

Digits at 16 pixels; accuracy of predicted parameters without training, batch norm by the statistics
of batches of 64 test images. Networks are sorted by multiply-accumulates at this size: the first 37
are the cheap half. Of it the families HELD_OUT are left out, and what is above --train-gmacs. Of
the others those above --max-gmacs take too long for a benchmark. --deepnets is the share of
DeepNets-1M in what is trained on: without it the hypernetwork forgets the networks that it knew.
It is adapted once per seed, from the same weights; all are evaluated on the same images. Printed
are means over seeds, of a group with the standard deviation over seeds, and of the change with the
standard error over its networks.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import torch

from datasets.deepnets import MetaBatches, meta_batches, open_split
from datasets.deepnets.space.widths import MetaBatchConfig
from datasets.images import load
from flows.networks.build import build_network, forward_gmacs
from flows.networks.score import score
from flows.settings.population import DEEPNETS, PopulationEntry
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
TRAINED = "trained on"


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
    parser.add_argument("--initial", default="models/ghn3", help="weights to begin with")
    parser.add_argument("--images", default="digits", help="data set")
    parser.add_argument("--split", default="data/deepnets1m", help="directory of split train")
    parser.add_argument("--deepnets", type=float, default=0.5, help="share of DeepNets-1M")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--size", type=int, default=16, help="side of the images, in pixels")
    parser.add_argument("--max-gmacs", type=float, default=0.37, help="of evaluated networks")
    parser.add_argument("--train-gmacs", type=float, default=0.07, help="of trained networks")
    parser.add_argument("--test", type=int, default=128, help="test images")
    parser.add_argument("--seeds", type=int, default=1, help="adaptations, of seeds from 0 on")
    parser.add_argument("--plot", help="file of the figure")
    parser.add_argument("--out", type=Path, help="file for the adapted weights of the last seed")
    asked = parser.parse_args()
    torch.set_num_threads(1)

    costs = {name: forward_gmacs(name, 10, asked.size) for name in TORCHVISION_74}
    by_cost = sorted(costs, key=costs.__getitem__)
    half = by_cost[:37]
    trained = [n for n in half if family(n) not in HELD_OUT and costs[n] <= asked.train_gmacs]
    print(f"trained on {len(trained)}: {', '.join(trained)}", flush=True)
    names = [name for name in by_cost if name in trained or costs[name] <= asked.max_gmacs]

    test = load(asked.images, split="test", image_size=asked.size)
    batches = list(test.batches(64, 0, drop_last=True))[: asked.test // 64]
    before = accuracies(from_pretrained(asked.initial), names, asked.size, batches)
    after = []
    for seed in range(asked.seeds):
        ghn = from_pretrained(asked.initial)
        adapt(ghn, trained, seed, asked)
        after.append(accuracies(ghn.eval(), names, asked.size, batches))
        print(f"seed {seed}: {statistics.mean(after[-1].values()):.1%}", flush=True)
    groups = grouped(names, trained, half)
    report(groups, before, after)
    if asked.plot:
        plot(asked.plot, groups, before, after)


def adapt(ghn: GHN, trained: list[str], seed: int, asked: argparse.Namespace) -> None:
    """Trains the hypernetwork on networks of these names and DeepNets-1M."""
    recipe = TrainConfig(
        steps=asked.steps, warmup_steps=asked.steps // 10, meta_batch_size=4, batch_size=32,
        lr=asked.lr, network_clip=0.5, seed=seed,
    )  # fmt: skip
    networks = MetaBatchConfig(channels=(16, 32), fc_dim=(64, 256), max_nodes=6000)
    entries = [PopulationEntry(networks=name) for name in trained]
    deepnets = None
    if asked.deepnets:
        weight = len(trained) * asked.deepnets / (1 - asked.deepnets)
        entries.append(PopulationEntry(networks=DEEPNETS, weight=weight))
        split = open_split(asked.split, "train")
        sizes = (4, 10, asked.size, seed)
        deepnets = MetaBatches(split, *sizes, config=networks, max_cost=2e7)
    population = Population(entries)
    members = population.members(10, asked.size, seed)
    dataset = PopulationBatches(population, members, 4, networks, seed, deepnets=deepnets)
    images = load(asked.images, split="train", image_size=asked.size)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as directory:
        bar = [ProgressBar()]
        train(recipe, ghn, partial(meta_batches, dataset), images, Path(directory), callbacks=bar)
        if asked.out:
            shutil.copyfile(Path(directory) / "ghn.safetensors", asked.out)
    print(f"{asked.steps} steps in {time.process_time() - started:.0f} s of one core", flush=True)


def grouped(names: list[str], trained: list[str], half: list[str]) -> dict[str, list[str]]:
    """Networks by what training has seen of them."""
    known = {family(name) for name in trained}
    groups = defaultdict(list)
    for name in names:
        seen = "families trained on" if family(name) in known else "families held out"
        place = "cheap half" if name in half else "costly half"
        groups[TRAINED if name in trained else f"{place}, {seen}"].append(name)
    return dict(groups)


def report(
    groups: dict[str, list[str]], before: dict[str, float], after: list[dict[str, float]]
) -> None:
    """Prints every network with what each seed made of it, and means of the groups."""
    for title, members in groups.items():
        for name in members:
            told = [found[name] for found in after]
            seeds = " ".join(f"{value:.1%}" for value in told)
            print(f"| {name} | {before[name]:.1%} | {statistics.mean(told):.1%} | {seeds} |")
        print(line(title, members, before, after), flush=True)
    others = [n for title, members in groups.items() if title != TRAINED for n in members]
    print(line("not trained on", others, before, after))


def line(
    title: str, members: list[str], before: dict[str, float], after: list[dict[str, float]]
) -> str:
    """Means over networks: before, after with the spread over seeds, and the change with its
    standard error over networks.
    """
    begun = statistics.mean(before[name] for name in members)
    ends = [statistics.mean(found[name] for name in members) for found in after]
    spread = f" ± {statistics.stdev(ends):.1%}" if len(ends) > 1 else ""
    gains = [statistics.mean(found[name] for found in after) - before[name] for name in members]
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    end, gain = statistics.mean(ends), statistics.mean(gains)
    return (
        f"| **{title}** ({len(members)}) | {begun:.1%} | {end:.1%}{spread} |"
        f" {gain:+.1%} ± {error:.1%} |"
    )


def plot(
    path: str,
    groups: dict[str, list[str]],
    before: dict[str, float],
    after: list[dict[str, float]],
) -> None:
    """A point per network: accuracy before and, mean and range over seeds, after."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "population"
    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    axes.axline((0, 0), slope=1, color="black", linewidth=0.8, linestyle=":")
    colours = ("tab:grey", "tab:blue", "tab:orange", "tab:green")
    for colour, (title, members) in zip(colours, groups.items(), strict=False):
        ends = [[100 * found[name] for found in after] for name in members]
        means = [statistics.mean(found) for found in ends]
        low = [mean - min(found) for mean, found in zip(means, ends, strict=True)]
        high = [max(found) - mean for mean, found in zip(means, ends, strict=True)]
        axes.errorbar(
            [100 * before[name] for name in members], means, (low, high), fmt="o", color=colour,
            elinewidth=0.8, markersize=4, label=f"{title} ({len(members)})",
        )  # fmt: skip
    axes.set(xlabel="accuracy before (%)", ylabel="after (%)", xlim=(0, 100), ylim=(0, 100))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, metadata={"Date": None} if path.endswith("svg") else None)


if __name__ == "__main__":
    main()
