"""Measures DeepNets-1M: generation, size, opening, reading, meta-batches, validation. See `deepnets.md` for results.

    python benchmarks/deepnets.py --sizes 10000 100000 --workers 2 --directory /tmp/deepnets-benchmark
    python benchmarks/deepnets.py --sizes 1000000 --no-validate ...

Peak memory is that of the main process of a step (VmHWM), each step in a process of its own; workers come on
top. The reference's rate is measured with its generator script, if a checkout of facebookresearch/ppuda is given by
--reference.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def in_own_process(step: str, *arguments: object) -> dict:
    """Runs `step` of this file in a fresh process and returns what it prints as JSON."""
    command = [sys.executable, __file__, "--step", step, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=ROOT)
    return json.loads(output.stdout.strip().splitlines()[-1])


def peak_megabytes() -> float:
    """The largest resident set of this process so far (VmHWM; `ru_maxrss` would include its parent's before exec)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def generate(directory: str, size: str, workers: str) -> dict:
    from datasets.deepnets import GenerateConfig, generate_split
    from datasets.deepnets.store import paths_of
    from datasets.deepnets.workers import OnThisMachine

    config = GenerateConfig(splits={"train": {"size": int(size)}})
    started = time.perf_counter()
    generated = generate_split(directory, "train", config, map_shards=OnThisMachine(int(workers)))
    seconds = time.perf_counter() - started
    files = [path.stat().st_size for path in paths_of(Path(directory), "train")]
    nodes = generated.split.n_nodes
    return {
        "seconds": seconds, "graphs_per_second": int(size) / seconds, "megabytes": sum(files) / 1e6,
        "bytes_per_graph": sum(files) / int(size), "peak_mb": peak_megabytes(), "made": generated.made,
        "nodes_mean": float(nodes.mean()), "nodes_std": float(nodes.std()),
        "redrawn": len(generated.split.header.redrawn),
    }  # fmt: skip


def open_(directory: str) -> dict:
    from datasets.deepnets import open_split

    before = peak_megabytes()
    started = time.perf_counter()
    split = open_split(directory, "train")
    seconds = time.perf_counter() - started
    return {"open_seconds": seconds, "open_peak_mb": peak_megabytes(), "imports_mb": before, "graphs": len(split)}


def read(directory: str) -> dict:
    import numpy as np

    from datasets.deepnets import open_split

    split = open_split(directory, "train")
    chosen = np.random.default_rng(0).integers(0, len(split), 2000).tolist()
    for index in chosen[:50]:
        _ = split.graph(index).distance
    started = time.perf_counter()
    for index in chosen:
        _ = split.graph(index).distance
    return {"graph_ms": (time.perf_counter() - started) / len(chosen) * 1e3}


def load(directory: str) -> dict:
    from datasets.deepnets import MetaBatches, open_split

    dataset = MetaBatches(open_split(directory, "train"), 8, seed=1)
    _ = dataset[0]
    started = time.perf_counter()
    for step in range(1, 251):
        _ = dataset[step]
    return {"loader_graphs_per_second": 250 * 8 / (time.perf_counter() - started)}


def validate(directory: str, workers: str) -> dict:
    from datasets.deepnets.validate import ValidateConfig, as_json, validate_splits
    from datasets.deepnets.workers import OnThisMachine

    started = time.perf_counter()
    report = validate_splits(directory, ValidateConfig(splits=("train",)), map_blocks=OnThisMachine(int(workers)))
    seconds = time.perf_counter() - started
    duplicates = next(check.note for check in report.checks if check.check == "duplicates")
    failed = [f"{c.check}: {c.failed} {c.examples[:3]}" for c in report.failures]
    statistics = as_json(report)["statistics"]["train"]["ours"]
    return {
        "validate_seconds": seconds, "validate_peak_mb": peak_megabytes(), "failed": failed,
        "duplicates": duplicates, "statistics": statistics,
    }  # fmt: skip


def reference(checkout: str, count: int) -> dict:
    """Graphs per second of the reference's generator, by its own clock."""
    with tempfile.TemporaryDirectory() as directory:
        script = Path(checkout) / "experiments" / "net_generator.py"
        extra = os.environ.get("PYTHONPATH", "")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{checkout}{os.pathsep}{extra}"}
        output = subprocess.run(
            [sys.executable, str(script), "train", str(count), str(Path(directory) / "data")],
            check=True, capture_output=True, text=True, env=environment, cwd=directory,
        ).stdout  # fmt: skip
    seconds = float(output.split("total time=")[-1].split()[0])
    return {"graphs_per_second": count / seconds, "graphs": count}


STEPS = {"generate": generate, "open": open_, "read": read, "load": load, "validate": validate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--directory", default=None, help="kept; by default a temporary one")
    parser.add_argument("--no-validate", action="store_true")
    parser.add_argument("--reference", default=None, help="a checkout of facebookresearch/ppuda")
    parser.add_argument("--reference-graphs", type=int, default=30)
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step[0]](*options.step[1:])))
        return
    import torch

    print(json.dumps({"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(),
                      "python": platform.python_version(), "torch": torch.__version__}))  # fmt: skip
    if options.reference:
        print(json.dumps({"reference": reference(options.reference, options.reference_graphs)}), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for size in options.sizes:
            directory = Path(options.directory or temporary) / str(size)
            row = {"graphs": size, **in_own_process("generate", directory, size, options.workers)}
            for step in ("open", "read", "load"):
                row |= in_own_process(step, directory)
            if not options.no_validate:
                row |= in_own_process("validate", directory, options.workers)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
