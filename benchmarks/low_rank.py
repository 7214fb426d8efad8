"""Trains a tiled and a low-rank hypernetwork for the same time on wide networks, and says how good
the networks are that each predicts.

    python benchmarks/low_rank.py --seconds 60

Networks are multilayer perceptrons and small convolutional networks for the digits of scikit-learn,
of widths from 32 to 512: far above the 32 channels of the tiled decoder's block. Those of odd
numbers train, those of even numbers are held out. Both hypernetworks have the same message passing;
numbers of parameters are printed.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.tensor(digits.target)
    everything = networks()
    training, held_out = everything[1::2], everything[::2]
    print("| decoder | seed | parameters | steps | accuracy, trained on | accuracy, held out |")
    print("|---|---|---|---|---|---|")
    for seed, (name, config) in itertools.product(range(args.seeds), CONFIGS.items()):
        torch.manual_seed(seed)
        hypernetwork = GHN(config)
        optimizer = torch.optim.AdamW(hypernetwork.parameters(), lr=1e-3, weight_decay=1e-2)
        steps, end = 0, time.perf_counter() + args.seconds
        while time.perf_counter() < end:
            chosen = [training[i] for i in torch.randint(len(training), (4,)).tolist()]
            batch = torch.randint(1400, (64,))
            outputs = losses(hypernetwork, chosen, x[batch])
            loss = sum((F.cross_entropy(out, y[batch]) for out in outputs), torch.zeros(())) / 4
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(hypernetwork.parameters(), 5.0)
            optimizer.step()
            steps += 1
        shares = []
        with torch.no_grad():
            for chosen in (training, held_out):
                outputs = losses(hypernetwork, chosen, x[1400:])
                right = [(out.argmax(1) == y[1400:]).float().mean() for out in outputs]
                shares.append(100 * float(torch.stack(right).mean()))
        count = sum(parameter.numel() for parameter in hypernetwork.parameters())
        print(f"| {name} | {seed} | {count:,} | {steps} | {shares[0]:.1f} | {shares[1]:.1f} |")


if __name__ == "__main__":
    main()
