"""Evaluates architectures on this machine and on a Ray cluster of two local nodes, and compares the
rows.

    python benchmarks/ray_rows.py --ghn models/ghn3/ghn.safetensors [--per-split 100] [--kill 3]
    [--out rows.json]

While the cluster works, `--kill` of its worker processes are killed (SIGKILL), spread over the run.
Exit code 1 unless both give the same rows in every column but `seconds`. Prints what the
architectures of each split cost.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from flows.compute.fanout import FanOut, fan_out
from flows.networks.targets import ArchitecturesConfig, Target, targets
from flows.params import load_params
from flows.rows.schema import Row
from flows.settings.evaluate import EvaluateConfig
from flows.stages.evaluate import Evaluate, drawn
from flows.stages.images import load_split


class Named:
    """Results come in order of completion, so each brings its architecture along; one that failed,
    its error.
    """

    def __init__(self, evaluate: Evaluate) -> None:
        self.evaluate = evaluate

    def __call__(self, target: Target) -> tuple[str, Row]:
        try:
            return target.id, self.evaluate(target)
        except Exception as error:
            return target.id, {"error": f"{type(error).__name__}: {error}", "seconds": 0.0}


def collect(
    evaluate: Evaluate, chosen: list[Target], config: FanOut, on_row: Callable[[int], None]
) -> tuple[dict[str, Row], float]:
    started = time.perf_counter()
    rows: dict[str, Row] = {}
    for name, row in fan_out(Named(evaluate), chosen, config, title=config.backend):
        assert name not in rows
        rows[name] = row
        on_row(len(rows))
    return rows, time.perf_counter() - started


def kill_a_worker() -> None:
    """One that is at work."""
    mine = [
        p
        for p in psutil.process_iter(["name", "cmdline"])
        if "ray::_call_on_node" in " ".join(p.info["cmdline"])
    ]
    if mine:
        os.kill(mine[0].pid, signal.SIGKILL)
        print(f"killed worker {mine[0].pid}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ghn", type=Path, required=True)
    parser.add_argument("--per-split", type=int, help="by default all, that is 974 architectures")
    parser.add_argument(
        "--torchvision", type=int, default=74, help="the first so many of torchvision"
    )
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--kill", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    import ray
    from ray.cluster_utils import Cluster

    from ghn import from_pretrained

    torch.set_num_threads(1)
    chosen = targets(ArchitecturesConfig(per_split=options.per_split))
    deepnets = [t for t in chosen if t.index is not None]
    chosen = deepnets + chosen[len(deepnets) :][: options.torchvision]
    chosen.reverse()  # the largest first, as the stage does
    config = EvaluateConfig(
        images=options.images, batch_size=options.images, min_images=options.images
    )
    params = load_params()
    images = drawn(
        load_split(params.images, params.base.seed, "test"), params.base.seed, options.images
    )
    evaluate = Evaluate(from_pretrained(options.ghn), images, images, config, seed=1, device="cpu")

    local, local_seconds = collect(evaluate, chosen, FanOut(workers=2), lambda n: None)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    deaths = {len(chosen) * (k + 1) // (options.kill + 1) for k in range(options.kill)}
    try:
        on_ray, ray_seconds = collect(
            evaluate,
            chosen,
            FanOut(backend="ray", address=cluster.address),
            lambda n: kill_a_worker() if n in deaths else None,
        )
    finally:
        cluster.shutdown()

    def compared(row: Row) -> Row:
        return {key: value for key, value in row.items() if key != "seconds"}

    differ = [name for name in local if compared(local[name]) != compared(on_ray[name])]
    cost: dict[str, list[float]] = defaultdict(list)
    for target in chosen:
        cost[target.split].append(local[target.id]["seconds"])
    print(
        f"ray {ray.__version__}, torch {torch.__version__}; {len(chosen)} architectures,"
        f" {options.images} images each"
    )
    print(
        f"local, 2 processes: {local_seconds:.0f} s; Ray, 2 nodes of 1 CPU, {options.kill} workers"
        " killed: ",
        end="",
    )
    print(f"{ray_seconds:.0f} s")
    print(
        f"errors: {sum('error' in row for row in local.values())} local,"
        f" {sum('error' in r for r in on_ray.values())}"
    )
    for split, seconds in cost.items():
        print(
            f"  {split:12} {len(seconds):4} architectures, {sum(seconds) / len(seconds):.2f} s each"
        )
    print(
        f"{len(local) - len(differ)} of {len(local)} rows are the same"
        + (f"; not {differ[:10]}" if differ else "")
    )
    if options.out:
        options.out.write_text(json.dumps({"local": local, "ray": on_ray}))
    if differ or local.keys() != on_ray.keys():
        sys.exit(1)


if __name__ == "__main__":
    main()
