"""How long a training step takes, next to the same target networks with ordinary parameters and to
the reference.

    python benchmarks/train_step.py --meta-batch 4 --batch 32 --hidden 32 --reference ppuda=PATH
    ghn3=PATH python benchmarks/train_step.py --meta-batch 8 --batch 64 --hidden 64 --reference
    ppuda=PATH ghn3=PATH

Meta-batches come from a split of the published train rules through the loader of training (widths
of 32-pixel images, node budget), all by `--seed`. Every contender is a process of its own; they
take turns on each meta-batch, with the same architectures, images and number of threads, while the
others wait. A contender does the step twice and the faster one counts, so that neither new memory
nor kernels made for a new shape are in it; a first round warms up and is not counted. A step is the
whole of it: prediction, forward and backward of all networks, penalty, clipping, AdamW. Building
graphs and networks is loaders' work in both implementations and is not counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.deepnets import (
    Architecture,
    GenerateConfig,
    MetaBatchConfig,
    MetaBatches,
    Network,
    build_graph,
    generate_split,
)
from datasets.deepnets.networks.batch import Networks
from ghn.models import GHN, GHNConfig
from ghn.models.batch import GraphBatch
from ghn.train import TrainConfig, meta_batch_losses
from ghn.train.optimizer import LossScaler, make_optimizer

LEARNING_RATE = 4e-4
OURS, REFERENCE = "ours", "reference"


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


Step = Callable[[], None]


@dataclass(frozen=True)
class Once:
    """Makes steps each of which can be done once."""

    make: Callable[[], Step]


Prepare = Callable[[list[Sample], Tensor, Tensor], Step | Once]
"""From a meta-batch, images and labels to their step."""


def draw(rounds: int, m: int, seed: int) -> list[list[Sample]]:
    """Meta-batches as the training loop would see them."""
    config = GenerateConfig(
        shard_size=100, splits={"benchmark": {"size": max(200, 2 * rounds * m)}}
    )
    with tempfile.TemporaryDirectory() as directory:
        split = generate_split(directory, "benchmark", config, seed).split
        batches = MetaBatches(split, m, seed=seed, config=MetaBatchConfig(wider_nets=False))
        found = []
        for step in range(rounds):
            networks = batches[step].networks
            assert isinstance(networks, Networks)
            pairs = zip(networks.architectures, networks.scalings, strict=True)
            found.append([Sample(a, s.channels, s.fc_dim or 256) for a, s in pairs])
    return found


def ours(hidden: int) -> Prepare:
    """The step of `ghn.train`."""
    ghn = GHN(
        GHNConfig(
            hidden=hidden,
            layers=3,
            heads=8,
            num_classes=10,
            decoder_channels=hidden,
            decoder_kernel=11,
        )
    )
    optimizer = make_optimizer(ghn, TrainConfig(lr=LEARNING_RATE))

    def prepare(samples: list[Sample], images: Tensor, labels: Tensor) -> Step:
        config = TrainConfig(meta_batch_size=len(samples), batch_size=len(images), lr=LEARNING_RATE)
        scaler = LossScaler(config, torch.device("cpu"))
        graphs = [build_graph(s.architecture, s.channels, s.fc_dim) for s in samples]
        networks: list[nn.Module] = [
            Network(s.architecture, s.channels, s.fc_dim, device="meta").train() for s in samples
        ]
        batch = Batch(GraphBatch.from_graphs(graphs), networks, range(len(samples)))
        images = images.to(memory_format=torch.channels_last)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            losses, pending = meta_batch_losses(ghn, batch, images, labels, config)
            pending.run()
            scaler.step(optimizer, config.clip)
            losses.stack().tolist()

        return step

    return prepare


def plain(memory_format: torch.memory_format) -> Prepare:
    """Our target networks alone, each with parameters of its own: forward and backward."""

    def prepare(samples: list[Sample], images: Tensor, labels: Tensor) -> Step:
        images = images.contiguous(memory_format=memory_format)
        networks = [
            Network(s.architecture, s.channels, s.fc_dim).to(memory_format=memory_format).train()
            for s in samples
        ]

        def step() -> None:
            for network in networks:
                network.zero_grad(set_to_none=True)
                cross_entropy(network(images), labels).backward()

        return step

    return prepare


def reference(
    checkouts: dict[str, Path],
    hidden: int,
    alone: bool,
    grid: int = 11,
    classes: int = 10,
    device: str = "cpu",
) -> Prepare:
    """The reference implementation's step or, `alone`, its target networks with parameters of their
    own. Images above 64 pixels are ImageNet's to it.
    """
    sys.path[:0] = [str(checkouts["ppuda"]), str(checkouts["ghn3"])]
    from ghn3 import GHN3
    from ghn3.graph import Graph, GraphBatch
    from ghn3.ops import Network, NetworkLight
    from ppuda.deepnets1m.genotypes import from_dict

    ghn = GHN3(
        max_shape=(hidden, hidden, grid, grid), num_classes=classes,
        hypernet="gatedgnn", decoder="conv", weight_norm=True,
        ve=True, layernorm=True, hid=hidden, layers=3, heads=8, is_ghn2=False,
    ).to(device).train()  # fmt: skip
    optimizer = torch.optim.AdamW(ghn.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)

    def prepare(samples: list[Sample], images: Tensor, labels: Tensor) -> Step | Once:
        arguments = []
        for sample in samples:
            fields = sample.architecture.to_dict()
            fields |= {
                "C": sample.channels,
                "fc_dim": sample.fc_dim,
                "genotype": from_dict(fields["genotype"]),
            }
            large = images.shape[-1] > 64
            arguments.append({**fields, "is_imagenet_input": large, "num_classes": classes})

        def loss_of(model: Any) -> Tensor:
            out = model(images)
            return cross_entropy(out[0] if isinstance(out, tuple) else out, labels)

        if alone:
            own = [Network(**fields).to(device).train() for fields in arguments]

            def step_alone() -> None:
                for network in own:
                    network.zero_grad(set_to_none=True)
                    loss_of(network).backward()

            return step_alone
        graphs = []
        for fields in arguments:
            graphs.append(Graph(Network(**fields), ve_cutoff=50))
            graphs[-1].net_args = fields
        batch = GraphBatch(graphs, dense=True)

        def step(networks: list[Any]) -> None:
            optimizer.zero_grad()
            models = ghn(
                networks, batch, bn_track_running_stats=True, keep_grads=True, reduce_graph=True
            )
            penalty = sum(torch.norm(p, p="fro") for model in models for p in model.parameters())
            loss = 3e-5 * penalty
            for model in models:
                loss = loss + loss_of(model)
            loss = loss / len(models)
            loss.backward()
            nn.utils.clip_grad_norm_(ghn.parameters(), 5)
            optimizer.step()
            loss.item()

        # Its networks are used up by a step.
        return Once(lambda: partial(step, [NetworkLight(**fields) for fields in arguments]))

    return prepare


def work(
    pipe: Connection,
    name: str,
    make: Callable[..., Prepare],
    arguments: tuple[Any, ...],
    threads: int,
) -> None:
    """A contender's process: for each meta-batch that comes, seconds of a step."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    prepare = make(*arguments)
    while (task := pipe.recv()) is not None:
        samples, batch_size, seed = task
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(batch_size, 3, 32, 32, generator=generator)
        labels = torch.randint(10, (batch_size,), generator=generator)
        best, prepared = float("inf"), prepare(samples, images, labels)
        for _ in range(2):
            step = prepared.make() if isinstance(prepared, Once) else prepared
            gc.collect()
            begin = time.perf_counter()
            step()
            best = min(best, time.perf_counter() - begin)
        pipe.send(best)


PHASES = ("predict", "networks forward", "networks backward", "predict backward")
KINDS = {
    "convolution": "convolutions of oneDNN",
    "mm": "matrix products (attention, large kernels, linear layers, decoders)",
    "softmax": "softmax, GELU, layer norm",
    "gelu": "softmax, GELU, layer norm",
    "layer_norm": "softmax, GELU, layer norm",
    "batch_norm": "batch norm",
    "pool": "pooling",
    "adamw": "AdamW",
}


def profile(options: argparse.Namespace) -> None:
    """Prints where our step spends its time: shares of self time, by phase and kind of
    operation.
    """
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    prepare = ours(options.hidden)
    images = torch.randn(options.batch, 3, 32, 32)
    labels = torch.randint(10, (options.batch,))
    steps = [
        prepare(samples, images, labels)
        for samples in draw(options.rounds, options.meta_batch, options.seed)
    ]
    for step in steps:
        step()
    shares: Counter[tuple[str, str]] = Counter()
    for step in steps:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
            step()
        for event in record.events():
            root, kind = (
                event,
                next((v for k, v in KINDS.items() if k in event.name.lower()), "everything else"),
            )
            while root.cpu_parent is not None and root.name not in PHASES:
                root = root.cpu_parent
            phase = root.name if root.name in PHASES else "clipping, AdamW, the rest"
            shares[phase, kind] += event.self_cpu_time_total
    total = sum(shares.values())
    for phase in (*PHASES, "clipping, AdamW, the rest"):
        parts = {kind: value for (name, kind), value in shares.items() if name == phase}
        print(f"| {phase} | | {sum(parts.values()) / total:.1%} |")
        for kind, value in sorted(parts.items(), key=lambda part: -part[1]):
            if value > 0.005 * total:
                print(f"| | {kind} | {value / total:.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--meta-batch", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8, help="meta-batches")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--reference", nargs=2, metavar="NAME=PATH", help="checkouts: ppuda=... ghn3=..."
    )
    parser.add_argument("--only", nargs="*", help="contenders to run, beside ours")
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument(
        "--profile", action="store_true", help="print where our step spends its time instead"
    )
    options = parser.parse_args()
    if options.profile:
        profile(options)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Lets all contenders take turns."""
    contenders: dict[str, tuple[Callable[..., Prepare], tuple[Any, ...]]] = {
        OURS: (ours, (options.hidden,)),
        "networks alone": (plain, (torch.channels_last,)),
        "networks alone, contiguous": (plain, (torch.contiguous_format,)),
    }
    if options.reference:
        checkouts = {
            name: Path(path) for name, path in (pair.split("=", 1) for pair in options.reference)
        }
        contenders[REFERENCE] = (reference, (checkouts, options.hidden, False))
        contenders["reference's networks alone"] = (reference, (checkouts, options.hidden, True))
    if options.only is not None:
        contenders = {
            name: value for name, value in contenders.items() if name in (OURS, *options.only)
        }

    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name, (make, arguments) in contenders.items():
        pipes[name], there = context.Pipe()
        context.Process(
            target=work, args=(there, name, make, arguments, options.threads), daemon=True
        ).start()
        there.close()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    meta_batches = draw(options.rounds, options.meta_batch, options.seed)
    try:
        for number, samples in enumerate(
            [meta_batches[0], *meta_batches]
        ):  # the first twice: it warms up
            for name, pipe in pipes.items():
                pipe.send((samples, options.batch, number))
                seconds[name].append(pipe.recv())
            print(
                f"round {number}: " + ", ".join(f"{k} {v[-1]:.2f} s" for k, v in seconds.items()),
                file=sys.stderr,
            )
    except KeyboardInterrupt:
        print("stopped; the table has the meta-batches that are complete", file=sys.stderr)
    complete = min(len(values) for values in seconds.values())
    if complete > 1:
        report(options, {name: values[1:complete] for name, values in seconds.items()})


def report(options: argparse.Namespace, seconds: dict[str, list[float]]) -> None:
    """Prints the table; ratios are of sums over all meta-batches and, for their spread, of single
    ones.
    """
    print(
        f"\nm={options.meta_batch} b={options.batch} d={options.hidden}, "
        f"{options.threads} threads, {len(seconds[OURS])} meta-batches"
    )
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}\n")
    print(
        "| contender | seconds a step, mean | it / ours | of single meta-batches"
        " |\n|---|---|---|---|"
    )
    total = sum(seconds[OURS])
    for name, values in seconds.items():
        ratios = sorted(value / own for value, own in zip(values, seconds[OURS], strict=True))
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}, median {statistics.median(ratios):.2f}"
        print(f"| {name} | {statistics.mean(values):.3f} | {sum(values) / total:.2f} | {spread} |")
    alone = sum(seconds.get("networks alone", []))
    if alone:
        print(f"\nours / networks alone: {total / alone:.3f}")
    if options.json:
        options.json.write_text(
            json.dumps({"options": vars(options), "seconds": seconds}, default=str)
        )


if __name__ == "__main__":
    main()
