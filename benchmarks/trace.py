"""Times the construction of the 74 torchvision graphs, virtual edges included, against the
reference implementation.

    python benchmarks/trace.py --reference DIRECTORY

DIRECTORY holds checkouts of the public repositories ppuda and ghn3 (or set GHN_REFERENCE), and
their requirements must be installed; nothing is fetched, and without it only our own numbers are
taken. Both sides get the same model, with parameters on the CPU; building it is not timed. Times
are medians. Graphs are compared by their numbers of nodes and edges and the sum of their distances.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from reference import add_reference
from torch import nn

from ghn import trace
from ghn.architectures import TORCHVISION_74, build

AUXILIARY_HEADS = ("googlenet", "inception_v3")  # which the reference sees only in train mode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=list(TORCHVISION_74))
    parser.add_argument("--reference", type=Path, default=os.environ.get("GHN_REFERENCE"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument("--profile", action="store_true", help="print where our time goes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    reason = (
        "no --reference given"
        if args.reference is None
        else add_reference(Path(args.reference), "ghn3.graph")
    )
    if reason:
        print(f"reference skipped: {reason}")
    print(
        f"{platform.processor() or platform.machine()}, {args.threads} threads, torch"
        f" {torch.__version__}"
    )
    print("| model | nodes | reference, ms | ours, ms | ratio | same |\n|---|---|---|---|---|---|")
    trace(build("resnet18", device="meta"))  # imports and caches
    rows = []
    for name in args.models:
        rows.append(row := compare(name, args.repeats, with_reference=not reason))
        theirs = "" if reason else f"{row['reference'] * 1e3:.0f}"
        ratio = "" if reason else f"{row['reference'] / row['ours']:.1f}"
        same = "" if reason else "yes" if row["same"] else "NO"
        print(
            f"| {name} | {row['nodes']} | {theirs} | {row['ours'] * 1e3:.1f} | {ratio} | {same} |",
            flush=True,
        )
    summary: dict[str, Any] = {"threads": args.threads, "ours": sum(row["ours"] for row in rows)}
    if not reason:
        summary["reference"] = sum(row["reference"] for row in rows)
        summary["ratio"] = summary["reference"] / summary["ours"]
        summary["same"] = all(row["same"] for row in rows)
    print(f"total: {', '.join(f'{key} {value:.4g}' for key, value in summary.items())}")
    if args.json:
        args.json.write_text(json.dumps({"summary": summary, "rows": rows}, indent=1) + "\n")
    if args.profile:
        profile(args.models)


def compare(name: str, repeats: int, with_reference: bool) -> dict[str, Any]:
    """Times both sides on one model."""
    model = real(name)
    graph, seconds = median(lambda: with_distances(trace(model)), repeats)
    row: dict[str, Any] = {
        "model": name,
        "nodes": graph.n_nodes,
        "edges": len(graph.edges),
        "ours": seconds,
    }
    if with_reference:
        from ghn3.graph import Graph

        model.train(name in AUXILIARY_HEADS)
        theirs, row["reference"] = median(
            lambda: Graph(model, ve_cutoff=50, verbose=False), repeats, warm_up=False
        )
        distance = theirs.edges[:, 2]
        numbers = (theirs.n_nodes, int((distance == 1).sum()), int(distance.sum()))
        row["same"] = numbers == (
            graph.n_nodes,
            len(graph.edges),
            int(graph.distance.sum(dtype=int)),
        )
    return row


def with_distances(graph: Any) -> Any:
    """`graph` with its virtual edges computed."""
    _ = graph.distance
    return graph


def real(name: str) -> nn.Module:
    """A model with memory for its parameters: zeros, as initialising 74 models takes longer than
    tracing them.
    """
    model = build(name, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.zero_()
    return model.eval()


def median(call: Callable[[], Any], repeats: int, warm_up: bool = True) -> tuple[Any, float]:
    """The result of `call` and its median time in seconds."""
    if warm_up:
        call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - started)
    return result, statistics.median(times)


def profile(models: list[str]) -> None:
    """Prints the functions that take most of the time of tracing `models`."""
    networks = [build(name, device="meta") for name in models]
    profiler = cProfile.Profile()
    profiler.enable()
    for network in networks:
        with_distances(trace(network))
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(15)


if __name__ == "__main__":
    main()
