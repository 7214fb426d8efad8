"""Accuracy of predicted, untrained parameters on architectures a hypernetwork has not seen: the
model card's numbers.

    python benchmarks/pretrained.py --params params.yaml models/ghn3/ghn.safetensors
    python benchmarks/pretrained.py --plot curve.png 2.5.safetensors 5.1.safetensors

The second form gives a line for each of several files and a picture of their accuracy against what
they were trained on, in million network-images, which their names say. Run where `ghn generate` (of
the splits) and `ghn images` have left their files. Networks of val and test have C = 32,
torchvision models the small-image stem; batch norm uses batch statistics, batches of 64 test
images. Networks of a split see the test images in turn, each others than the one before, so that
the mean of 100 networks of 128 images each is over all 10,000 of CIFAR-10: its standard error is
well below a point, where that over the same 128 images is above two. "Layers apart" is the mean
cosine distance between predicted convolution weights of one shape in one network: 0 where all are
alike. Networks of the splits that flatten their feature maps, without global pooling, have a column
of their own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch
from joblib import Parallel, delayed
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from flows.networks.build import build_network
from flows.networks.score import score
from flows.networks.targets import TORCHVISION, Target, open_split
from flows.params import load_params
from flows.report.published import published
from flows.settings import paths
from flows.settings.architectures import EvaluationSplit
from flows.stages.images import load_split
from ghn.analysis.diversity import layer_distance
from ghn.checkpoint import from_pretrained
from ghn.graph.flattening import flattened_inputs

SPLITS = ("val", *get_args(EvaluationSplit))
PUBLISHED_LINES = {"MLP": "--", "GHN-1": "-.", "GHN-2": (0, (8, 4))}


@dataclass(frozen=True)
class Score:
    """Of one network: accuracy and how far its layers are apart, for each hypernetwork; accuracy at
    random; whether it flattens whole feature maps for want of global pooling.
    """

    target: str
    split: str
    flattens: bool
    predicted: list[float]
    apart: list[float | None]
    random: float


def measure(
    targets: Sequence[Target],
    weights: Sequence[str | None],
    params: Path,
    images: int,
    singles: int,
) -> list[Score]:
    """Builds each network once; the hypernetworks take turns to predict into it.

    Args:
        targets: networks; the place of one in its split decides the images that it sees.
        weights: files of hypernetworks; None for that of the package.
        params: params.yaml, which says which images.
        images: that a network sees.
        singles: that each network of torchvision sees, always the same.
    """
    torch.set_num_threads(1)
    ghns = [from_pretrained(file) for file in weights]
    settings = load_params(params)
    data = load_split(settings.images, settings.base.seed, "test")
    every = list(data.batches(64, seed=1, drop_last=True))
    scores = []
    for target in targets:
        count = (singles if target.index is None else images) // 64
        first = (target.index or 0) * count
        batches = [every[(first + k) % len(every)] for k in range(min(count, len(every)))]
        torch.manual_seed(1)
        model, graph = build_network(target, data.num_classes, data.image_size)
        flattens = bool(flattened_inputs(graph))
        found = Score(target.id, target.split, flattens, [], [], score(model, batches).accuracy)
        for ghn in ghns:
            found.predicted.append(score(ghn(model, graph), batches).accuracy)
            found.apart.append(layer_distance(model.parameters()))
        scores.append(found)
    return scores


def mean_and_best(values: Iterable[float]) -> str:
    found = list(values)
    return f"{statistics.mean(found):.1%} | {max(found):.1%}"


def by_split(scores: Sequence[Score]) -> list[list[Score]]:
    """Of the splits that are there."""
    several = [[found for found in scores if found.split == split] for split in SPLITS]
    return [group for group in several if group]


def table(names: Sequence[str], scores: Sequence[Score]) -> str:
    """A line per hypernetwork and one of random parameters."""
    single = [found for found in scores if found.split == TORCHVISION]
    groups = {f"{len(group)} {group[0].split}": group for group in by_split(scores)}
    several = list(groups.values())
    if flat := [found for group in several for found in group if found.flattens]:
        groups[f"{len(flat)} without global pooling"] = flat
    head = ["parameters"]
    head += [f"{what} of {group}" for group in groups for what in ("mean", "best")]
    head += [found.target for found in single] + ["layers apart"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for i, name in enumerate(names):
        cells = [
            name,
            *(mean_and_best(found.predicted[i] for found in group) for group in groups.values()),
        ]
        cells += [f"{found.predicted[i]:.1%}" for found in single]
        apart = [
            value for group in several for found in group if (value := found.apart[i]) is not None
        ]
        lines.append(" | ".join([*cells, f"{statistics.mean(apart):.4f}" if apart else ""]))
    cells = [
        "random",
        *(mean_and_best(found.random for found in group) for group in groups.values()),
    ]
    lines.append(" | ".join([*cells, *(f"{found.random:.1%}" for found in single), ""]))
    return "\n".join(f"| {line} |" for line in lines)


def plot(millions: Sequence[float], scores: Sequence[Score], path: Path) -> None:
    """Mean accuracy per split and that of each torchvision model, against million network-images,
    beside random parameters and published hypernetworks' means on split test.
    """
    methods = published("cifar10")["methods"]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(
        xlabel="million network-images trained on",
        ylabel="accuracy without training",
    )
    for group in by_split(scores):
        columns = zip(*(found.predicted for found in group), strict=True)
        mean = [statistics.mean(column) for column in columns]
        axes.plot(millions, mean, "-o", label=f"mean of {len(group)} of {group[0].split}")
    for found in scores:
        if found.split == TORCHVISION:
            axes.plot(millions, found.predicted, "-s", label=found.target)
    for name, style in PUBLISHED_LINES.items():
        value = methods[name]["test"][0] / 100
        axes.axhline(value, color="0.5", linestyle=style, label=f"{name}, published, test")
    random = statistics.mean(found.random for found in scores)
    axes.axhline(random, color="0.5", linestyle=":", label="random, mean")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "weights", nargs="*", help="files, or nothing for the hypernetwork of the package"
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--architectures", type=int, default=100, help="of each split")
    parser.add_argument("--splits", nargs="*", choices=SPLITS, default=["val", "test"])
    parser.add_argument("--images", type=int, default=128, help="that each network sees")
    parser.add_argument("--singles", type=int, default=1024, help="that torchvision's see")
    parser.add_argument("--torchvision", nargs="*", default=["resnet18", "resnet50"])
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--json", type=Path, help="gets all accuracies")
    parser.add_argument(
        "--plot",
        type=Path,
        help="a picture of the curve; the files' names are million network-images: 2.5.safetensors",
    )
    options = parser.parse_args()
    files: list[str | None] = options.weights or [None]
    names = [Path(file).stem if file else "of the package" for file in files]
    try:
        millions = [float(name) for name in names] if options.plot else []
    except ValueError as error:
        parser.error(f"--plot asks for files named by million network-images: {error}")
    targets = [
        Target(f"deepnets1m/{split}/{index}", split, index)
        for split in options.splits
        for index in range(min(options.architectures, len(open_split(paths.DEEPNETS, split))))
    ] + [Target(name, TORCHVISION) for name in options.torchvision]
    order = [target.id for target in targets]
    begin = time.perf_counter()
    shares = Parallel(n_jobs=options.workers)(
        delayed(measure)(
            targets[worker :: options.workers],
            files,
            options.params,
            options.images,
            options.singles,
        )
        for worker in range(options.workers)
    )
    scores = sorted(itertools.chain(*shares), key=lambda found: order.index(found.target))
    seconds = time.perf_counter() - begin
    print(
        f"{options.images // 64 * 64} test images for each network of a split,"
        f" {options.singles // 64 * 64} for each of torchvision, {seconds:.0f} s\n\n"
        + table(names, scores)
    )
    if options.json:
        options.json.write_text(
            json.dumps({"names": names, "scores": [asdict(found) for found in scores]}, indent=2)
        )
    if options.plot:
        plot(millions, scores, options.plot)


if __name__ == "__main__":
    main()
