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
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from step_contenders import OURS, REFERENCE, Once, Prepare, draw, ours, plain, reference


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
        # the first twice: it warms up
        for number, samples in enumerate([meta_batches[0], *meta_batches]):
            for name, pipe in pipes.items():
                pipe.send((samples, options.batch, number))
                seconds[name].append(pipe.recv())
            print(
                f"round {number}: " + ", ".join(f"{k} {v[-1]:.2f} s" for k, v in seconds.items()),
                file=sys.stderr,
            )
    except KeyboardInterrupt:
        print("stopped; the table has the meta-batches that are complete", file=sys.stderr)
    for pipe in pipes.values():
        pipe.send(None)
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
