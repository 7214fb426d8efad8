"""Trains a tiled and a low-rank hypernetwork for the same time on wide networks, and says how good
the networks are that each predicts.

    python benchmarks/low_rank.py --seconds 100 --seeds 3 --plot docs/images/low_rank.svg

Time is that of the processor, so that a busy machine does not decide. Networks are multilayer
perceptrons and small convolutional networks for the digits of scikit-learn, of widths from 32 to
512: far above the 32 channels of the tiled decoder's block. Those of odd numbers train, those of
even numbers are held out. Both hypernetworks have the same message passing; numbers of parameters
are printed.
"""

from __future__ import annotations

import argparse
import itertools
import time

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from ghn import GHN, Graph, GraphBatch, trace
from ghn.models import GHNConfig

LOOKS = (0.1, 0.2, 0.4, 0.7, 1.0)
"""Shares of the time after which the networks are evaluated; evaluation is not counted."""

COMMON = {"hidden": 32, "layers": 3, "heads": 4, "num_classes": 10, "decoder_kernel": 11}
CONFIGS = {
    "tiled": GHNConfig(**COMMON, decoder_channels=32),
    "low-rank": GHNConfig(
        **COMMON, decoder_channels=32, decoder="low-rank", rank=32, factor_length=4096
    ),
}


def networks() -> list[tuple[nn.Module, Graph]]:
    """Wide networks with their graphs, the same each time."""
    built: list[nn.Module] = []
    for width, depth in itertools.product((32, 64, 128, 192, 256, 384, 512), (1, 2, 3)):
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
        for _ in range(depth):
            layers += [nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU()]
        built.append(nn.Sequential(*layers, nn.Linear(width, 10)))
        if width <= 256:
            half = width // 2
            convolutions = [nn.Conv2d(1, half, 3, 2, 1), nn.BatchNorm2d(half), nn.ReLU()]
            for _ in range(depth):
                convolutions += [nn.Conv2d(half, half, 3, 1, 1), nn.BatchNorm2d(half), nn.ReLU()]
            head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(half, 10)]
            built.append(nn.Sequential(*convolutions, *head))
    example = torch.zeros(2, 1, 8, 8)
    return [(model.train(), trace(model, example)) for model in built]


def losses(hypernetwork: GHN, chosen: list[tuple[nn.Module, Graph]], x: Tensor) -> list[Tensor]:
    """The logits of each network with predicted parameters."""
    prediction = hypernetwork(GraphBatch.from_graphs([graph for _, graph in chosen]))
    return [
        torch.func.functional_call(model, parameters, (x,))
        for (model, _), parameters in zip(chosen, prediction.parameters, strict=True)
    ]


def shares(
    hypernetwork: GHN, groups: list[list[tuple[nn.Module, Graph]]], x: Tensor, y: Tensor
) -> list[float]:
    """Percentages of right answers, means over the networks of each group."""
    found = []
    for chosen in groups:
        with torch.no_grad():
            outputs = losses(hypernetwork, chosen, x)
        right = [(out.argmax(1) == y).float().mean() for out in outputs]
        found.append(100 * float(torch.stack(right).mean()))
    return found


def trained(
    config: GHNConfig, seed: int, seconds: float, everything: list[tuple[nn.Module, Graph]]
) -> list[tuple[float, int, list[float]]]:
    """Trains a hypernetwork; seconds, steps and `shares` at each look."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.tensor(digits.target)
    training, held_out = everything[1::2], everything[::2]
    torch.manual_seed(seed)
    hypernetwork = GHN(config)
    optimizer = torch.optim.AdamW(hypernetwork.parameters(), lr=1e-3, weight_decay=1e-2)
    steps, spent, found = 0, 0.0, []
    for look in LOOKS:
        while spent < look * seconds:
            started = time.process_time()
            chosen = [training[i] for i in torch.randint(len(training), (4,)).tolist()]
            batch = torch.randint(1400, (64,))
            outputs = losses(hypernetwork, chosen, x[batch])
            loss = sum((F.cross_entropy(out, y[batch]) for out in outputs), torch.zeros(())) / 4
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(hypernetwork.parameters(), 5.0)
            optimizer.step()
            steps += 1
            spent += time.process_time() - started
        found.append((spent, steps, shares(hypernetwork, [training, held_out], x[1400:], y[1400:])))
    return found


def plot(path: str, curves: dict[tuple[str, int], list[tuple[float, int, list[float]]]]) -> None:
    """Accuracy on held-out networks against time: a line per seed, a colour per decoder."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "low-rank"
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    colours = dict(zip(CONFIGS, ("tab:grey", "tab:blue"), strict=True))
    for (name, seed), curve in curves.items():
        axes.plot(
            [spent for spent, _, _ in curve],
            [found[1] for _, _, found in curve],
            "o-",
            color=colours[name],
            label=name if seed == 0 else None,
        )
    axes.axhline(10, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="seconds of one core", ylabel="accuracy, held-out networks (%)", ylim=(0, 100))
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.endswith("svg") else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=100, help="of the processor, for each")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--plot", help="file of the figure")
    args = parser.parse_args()
    torch.set_num_threads(1)
    everything = networks()
    sizes = {
        name: sum(p.numel() for p in GHN(config).parameters()) for name, config in CONFIGS.items()
    }
    print("| decoder | seed | parameters | seconds | steps | trained on | held out |")
    print("|---|---|---|---|---|---|---|")
    curves = {}
    for seed, (name, config) in itertools.product(range(args.seeds), CONFIGS.items()):
        curves[name, seed] = trained(config, seed, args.seconds, everything)
        for spent, steps, (known, unknown) in curves[name, seed]:
            row = (name, seed, f"{sizes[name]:,}", f"{spent:.0f}", steps, f"{known:.1f}")
            print("|", " | ".join(map(str, row)), f"| {unknown:.1f} |", flush=True)
    if args.plot:
        plot(args.plot, curves)


if __name__ == "__main__":
    main()
