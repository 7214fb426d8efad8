"""Times prediction for the 74 torchvision models, and its memory, against the reference
implementation.

    python benchmarks/predict.py --variant ghn3-t --reference DIRECTORY

DIRECTORY holds checkouts of the public repositories ppuda and ghn3 (or set GHN_REFERENCE); nothing
is fetched, and without it only our own numbers are taken. Both sides get the same weights, their
own graph of the model, built beforehand, and predict into the same model; what they predict is
compared. Times are medians after a call to warm up (with one repeat the reference gets none);
memory is the growth of the resident set during a call in a process of its own, sampled every
millisecond: weights and the model's parameters are there before.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from reference import add_reference
from torch import nn

from ghn import GHN, GHNConfig, trace
from ghn.architectures import TORCHVISION_74, build
from ghn.checkpoint.names import to_released

MEMORY_MODEL = "efficientnet_v2_l"  # the largest graph of the 74


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="ghn3-t", help="a name of ghn.VARIANTS")
    parser.add_argument("--models", nargs="*", default=list(TORCHVISION_74))
    parser.add_argument("--reference", type=Path, default=os.environ.get("GHN_REFERENCE"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write all numbers here, after each model")
    parser.add_argument(
        "--profile", action="store_true", help="print where our time goes, over all models"
    )
    parser.add_argument("--memory-of", choices=("ours", "reference"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    ours = GHN(GHNConfig.variant(args.variant)).eval()
    reason = (
        "no --reference given"
        if args.reference is None
        else add_reference(Path(args.reference), "ghn3.nn")
    )
    if args.memory_of:
        print(json.dumps(memory(ours, args.memory_of)))
        return
    if reason:
        print(f"reference skipped: {reason}")
    reference = None if reason else load_reference(ours)

    print(
        f"{platform.processor() or platform.machine()}, {args.threads} threads, torch"
        f" {torch.__version__}"
    )
    print(
        "| model | nodes | reference, s | ours, s | ratio | largest difference"
        " |\n|---|---|---|---|---|---|"
    )
    rows = []
    for name in args.models:
        rows.append(row := compare(name, ours, reference, args.repeats))
        theirs, ratio = (
            ("", "")
            if row["reference"] is None
            else (f"{row['reference']:.3f}", f"{row['ratio']:.1f}")
        )
        difference = "" if row["difference"] is None else f"{row['difference']:.1e}"
        print(
            f"| {name} | {row['nodes']} | {theirs} | {row['ours']:.3f} | {ratio} | {difference} |",
            flush=True,
        )
        if args.json:
            args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    total = sum(row["ours"] for row in rows)
    summary: dict[str, Any] = {"variant": args.variant, "threads": args.threads, "ours": total}
    if reference is None:
        print(f"| total | | | {total:.2f} | | |")
    else:
        summary["reference"] = sum(row["reference"] for row in rows)
        summary["ratio"] = summary["reference"] / total
        print(f"| total | | {summary['reference']:.2f} | {total:.2f} | {summary['ratio']:.1f} | |")
    summary["memory"] = {
        side: measure_memory(side, args) for side in ("ours", *(() if reason else ("reference",)))
    }
    for side, numbers in summary["memory"].items():
        print(
            f"{side}, {MEMORY_MODEL}: {numbers['peak'] / 2**20:.0f} MiB beyond weights and"
            " parameters"
        )
    if args.json:
        args.json.write_text(json.dumps({"summary": summary, "rows": rows}, indent=1) + "\n")
    if args.profile:
        profile(ours, args.models)


def compare(name: str, ours: GHN, reference: nn.Module | None, repeats: int) -> dict[str, Any]:
    """Times both sides on one model."""
    model = real(name)
    graph = trace(model)
    _ = graph.distance
    row: dict[str, Any] = {
        "model": name,
        "nodes": graph.n_nodes,
        "reference": None,
        "ratio": None,
        "difference": None,
    }
    row["ours"] = median(lambda: ours(model, graph), repeats)
    if reference is None:
        return row
    names = set(ours.reports[0].predicted)
    predicted = {
        key: value.detach().clone() for key, value in model.named_parameters() if key in names
    }
    theirs = reference_call(model, reference)
    row["reference"] = median(theirs, repeats, warm_up=repeats > 1)
    row["ratio"] = row["reference"] / row["ours"]
    after = dict(model.named_parameters())
    # random in the reference
    skip_class_token = {key for key in predicted if key.endswith("pos_embedding")}
    row["difference"] = max(
        float((after[key].detach() - value).abs().max())
        for key, value in predicted.items()
        if key not in skip_class_token
    )
    return row


def real(name: str) -> nn.Module:
    """A model with memory for its parameters, which are zero: initialising 74 models takes longer
    than predicting.
    """
    model = build(name, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.zero_()
    return model.eval()


def median(call: Callable[[], Any], repeats: int, warm_up: bool = True) -> float:
    """Median time in seconds, usually after one call to warm up."""
    if warm_up:
        call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def load_reference(ours: GHN) -> nn.Module:
    """The reference's hypernetwork with our weights."""
    from ghn3.nn import GHN3

    c = ours.config
    shape = (c.decoder_channels, c.decoder_channels, c.decoder_kernel, c.decoder_kernel)
    is_ghn2 = c.message_passing == "gated"
    module = GHN3(
        shape, c.num_classes, c.hidden, heads=c.heads, layers=c.layers, is_ghn2=is_ghn2,
        weight_norm=c.normalize, ve=c.virtual_edges, layernorm=c.layer_norm,
    )  # fmt: skip
    module.load_state_dict(to_released(ours.state_dict()))
    return module.eval()  # type: ignore[no-any-return]


def reference_call(model: nn.Module, reference: nn.Module) -> Callable[[], Any]:
    """A call of the reference with its graph built."""
    from ghn3.graph import Graph, GraphBatch

    # The reference sees auxiliary heads in train mode only; our graph has them in either mode.
    model.train(getattr(model, "aux_logits", False))
    graph = Graph(model, ve_cutoff=50, verbose=False)
    model.eval()

    def call() -> Any:
        # A batch is consumed by the forward pass; making one is part of the reference's prediction.
        batch = GraphBatch([graph], dense=reference.is_dense())
        with torch.no_grad():
            return reference(model, batch)

    return call


def profile(ours: GHN, names: list[str]) -> None:
    """Prints the share of each kind of operation in the time of predicting for all models, one call
    each.
    """
    seconds: Counter[str] = Counter()
    for name in names:
        model = real(name)
        graph = trace(model)
        _ = graph.distance
        ours(model, graph)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            ours(model, graph)
        for event in profiler.key_averages():
            seconds[event.key] += event.self_cpu_time_total / 1e6
    total = sum(seconds.values())
    print(f"profile: {total:.2f} s in operations of PyTorch")
    for operation, share in seconds.most_common(12):
        print(f"  {100 * share / total:5.1f}% {operation}")


def measure_memory(side: str, args: argparse.Namespace) -> dict[str, float]:
    """`memory` in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--variant",
        args.variant,
        "--threads",
        str(args.threads),
        "--memory-of",
        side,
    ]
    command += ["--reference", str(args.reference)] if args.reference else []
    return json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )


def memory(ours: GHN, side: str) -> dict[str, float]:
    """Growth of the resident set during the first call on `MEMORY_MODEL`, in bytes."""
    model = real(MEMORY_MODEL)
    if side == "ours":
        graph = trace(model)
        _ = graph.distance
        call: Callable[[], Any] = lambda: ours(model, graph)  # noqa: E731
    else:
        call = reference_call(model, load_reference(ours))
    before = peak = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    done.set()
    thread.join()
    return {"peak": peak - before, "seconds": seconds}


def resident() -> int:
    """The resident set of this process in bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
