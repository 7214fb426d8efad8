"""How long a training step takes, next to the same target networks with ordinary parameters and to the reference.

    python benchmarks/train_step.py --meta-batch 4 --batch 32 --hidden 32
    python benchmarks/train_step.py --meta-batch 8 --batch 64 --hidden 64 --reference ppuda=PATH ghn3=PATH

All contenders take turns within one run, on the same architectures and images, and every round draws new ones; the
table gives medians over rounds and the medians of ratios within a round. The step is the whole of it: prediction,
forward and backward of all networks, penalty, clipping, AdamW. Building graphs and networks is loaders' work in both
implementations and is not counted. The reference (repositories ppuda and ghn3) is run from checkouts that you name.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.deepnets import Architecture, Network, build_graph
from datasets.deepnets.rules import PUBLISHED
from datasets.deepnets.sampling import draw
from datasets.deepnets.table import decode_row
from ghn.errors import InvalidGraphError
from ghn.graph import GraphBatch
from ghn.models import GHN, GHNConfig
from ghn.train import TrainConfig, meta_batch_losses
from ghn.train.optimizer import LossScaler, make_optimizer

LEARNING_RATE = 4e-4


@dataclass(frozen=True)
class Sample:
    """An architecture with its drawn sizes."""

    architecture: Architecture
    channels: int
    fc_dim: int


@dataclass(frozen=True)
class Batch:
    graphs: GraphBatch
    networks: list[nn.Module]
    index: range


def draw_architectures(n: int, seed: int) -> list[Architecture]:
    """n connected architectures of the training split's rules."""
    rng = np.random.default_rng(seed)
    found: list[Architecture] = []
    while len(found) < n:
        for row in draw(PUBLISHED["train"], 8 * n, rng).table.encode():
            architecture = decode_row(row.tobytes())
            try:
                build_graph(architecture)
            except InvalidGraphError:
                continue
            found.append(architecture)
    return found[:n]


def ours(samples: list[Sample], ghn: GHN, images: Tensor, labels: Tensor) -> Callable[[], None]:
    config = TrainConfig(meta_batch_size=len(samples), batch_size=len(images), lr=LEARNING_RATE)
    optimizer, scaler = make_optimizer(ghn, config), LossScaler(config, torch.device("cpu"))
    graphs = [build_graph(s.architecture, s.channels, s.fc_dim) for s in samples]
    networks: list[nn.Module] = [Network(s.architecture, s.channels, s.fc_dim, device="meta").train() for s in samples]
    batch = Batch(GraphBatch.from_graphs(graphs), networks, range(len(samples)))
    images = images.to(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses, pending = meta_batch_losses(ghn, batch, images, labels, config)
        pending.run()
        scaler.step(optimizer, config.clip)
        losses.stack().tolist()

    return step


def plain(
    samples: list[Sample], images: Tensor, labels: Tensor, memory_format: torch.memory_format
) -> Callable[[], None]:
    """The target networks alone, each with parameters of its own: forward and backward."""
    images = images.contiguous(memory_format=memory_format)
    networks = [Network(s.architecture, s.channels, s.fc_dim).to(memory_format=memory_format).train() for s in samples]

    def step() -> None:
        for network in networks:
            network.zero_grad(set_to_none=True)
            cross_entropy(network(images), labels).backward()

    return step


class Reference:
    """The reference implementation, imported from checkouts of ppuda and ghn3."""

    def __init__(self, checkouts: dict[str, Path], hidden: int) -> None:
        sys.path[:0] = [str(checkouts["ppuda"]), str(checkouts["ghn3"])]
        from ghn3 import GHN3

        torch.manual_seed(0)
        self.ghn = GHN3(
            max_shape=(hidden, hidden, 11, 11), num_classes=10, hypernet="gatedgnn", decoder="conv", weight_norm=True,
            ve=True, layernorm=True, hid=hidden, layers=3, heads=8, is_ghn2=False,
        ).train()  # fmt: skip
        self.optimizer = torch.optim.AdamW(self.ghn.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)

    def prepare(self, samples: list[Sample], images: Tensor, labels: Tensor) -> Callable[[], None]:
        from ghn3.graph import Graph, GraphBatch
        from ghn3.ops import Network, NetworkLight
        from ppuda.deepnets1m.genotypes import from_dict

        arguments = []
        for sample in samples:
            fields = sample.architecture.to_dict()
            fields |= {"C": sample.channels, "fc_dim": sample.fc_dim, "genotype": from_dict(fields["genotype"])}
            arguments.append({**fields, "is_imagenet_input": False, "num_classes": 10})
        graphs = []
        for fields in arguments:
            graphs.append(Graph(Network(**fields), ve_cutoff=50))
            graphs[-1].net_args = fields
        networks = [NetworkLight(**fields) for fields in arguments]
        batch = GraphBatch(graphs, dense=True)

        def step() -> None:
            self.optimizer.zero_grad()
            models = self.ghn(networks, batch, bn_track_running_stats=True, keep_grads=True, reduce_graph=True)
            penalty = sum(torch.norm(p, p="fro") for model in models for p in model.parameters())
            loss = 3e-5 * penalty
            for model in models:
                out = model(images)
                loss = loss + cross_entropy(out[0] if isinstance(out, tuple) else out, labels)
            loss = loss / len(models)
            loss.backward()
            nn.utils.clip_grad_norm_(self.ghn.parameters(), 5)
            self.optimizer.step()
            loss.item()

        return step


def timed(step: Callable[[], None]) -> float:
    gc.collect()
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meta-batch", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7, help="each draws new architectures")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reference", nargs=2, metavar="NAME=PATH", help="checkouts: ppuda=... ghn3=...")
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    d, m = options.hidden, options.meta_batch
    torch.manual_seed(0)
    ghn = GHN(GHNConfig(hidden=d, layers=3, heads=8, num_classes=10, decoder_channels=d, decoder_kernel=11))
    reference = None
    if options.reference:
        reference = Reference({k: Path(v) for k, v in (pair.split("=", 1) for pair in options.reference)}, d)
    rng = np.random.default_rng(options.seed)
    seconds: dict[str, list[float]] = {}
    # The first round warms up (memory, oneDNN's kernels) and is not counted.
    pool = iter(draw_architectures(m * (options.rounds + 1), options.seed))
    for round_ in range(options.rounds + 1):
        samples = [
            Sample(next(pool), int(rng.choice([32, 48])), int(rng.choice([64, 128, 192, 256]))) for _ in range(m)
        ]
        images, labels = torch.randn(options.batch, 3, 32, 32), torch.randint(10, (options.batch,))
        contenders = {
            "ours": ours(samples, ghn, images, labels),
            "networks alone, channels last": plain(samples, images, labels, torch.channels_last),
            "networks alone, contiguous": plain(samples, images, labels, torch.contiguous_format),
        }
        if reference:
            contenders["reference"] = reference.prepare(samples, images, labels)
        for name, step in contenders.items():
            step_seconds = timed(step)
            if name != "reference":  # whose networks are used up by a step
                step_seconds = min(step_seconds, timed(step))
            if round_:
                seconds.setdefault(name, []).append(step_seconds)
        print(f"round {round_}: " + ", ".join(f"{k} {v[-1]:.2f} s" for k, v in seconds.items()), file=sys.stderr)
    result = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {
        name: statistics.median(o / v for o, v in zip(seconds["ours"], values, strict=True))
        for name, values in seconds.items()
    }
    print(f"\nm={m} b={options.batch} d={d}, {options.threads} threads, {options.rounds} rounds")
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}\n")
    print("| step | median seconds | ours / it |\n|---|---|---|")
    for name, value in result.items():
        print(f"| {name} | {value:.3f} | {ratios[name]:.2f} |")
    if options.json:
        options.json.write_text(
            json.dumps({"options": vars(options), "seconds": seconds, "ratios": ratios}, default=str)
        )


if __name__ == "__main__":
    main()
