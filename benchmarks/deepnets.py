"""Measures DeepNets-1M: generation, size, opening, reading, meta-batches, validation. See
`deepnets.md` for results.

    python benchmarks/deepnets.py --sizes 10000 100000 1000000 --workers 2 --reference ../ppuda
    python benchmarks/deepnets.py --sizes 1000000 --directory kept --parts generate
    python benchmarks/deepnets.py --sizes 1000000 --directory kept --parts read load validate

Each part runs in a process of its own and prints a line of JSON when it is done. Peak memory is the
largest sum of the proportional set sizes of that process and its workers, looked at every two
seconds. The reference's rate is measured with its generator script, if a checkout of
facebookresearch/ppuda is given by --reference.
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
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def in_own_process(step: str, *arguments: object) -> dict:
    """Runs `step` of this file in a fresh process; its figures, and the peak memory of it and its
    workers.
    """
    command = [sys.executable, __file__, "--step", step, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    peak = 0.0
    with tempfile.TemporaryFile("w+") as output:
        with subprocess.Popen(
            command, stdout=output, text=True, env=environment, cwd=ROOT
        ) as process:
            while process.poll() is None:
                peak = max(peak, sum(map(resident_megabytes, with_children(process.pid))))
                time.sleep(2.0)
        if process.returncode:
            raise SystemExit(f"{step} failed")
        output.seek(0)
        return {**json.loads(output.read().strip().splitlines()[-1]), "peak_mb": round(peak)}


def with_children(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for thread in Path(f"/proc/{pid}/task").iterdir():
            if thread.name != str(pid):
                children += (thread / "children").read_text().split()
    except OSError:
        return []
    return [pid, *(below for child in children for below in with_children(int(child)))]


def resident_megabytes(pid: int) -> float:
    """Memory of a process, what it shares divided among the sharers; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(text.split("\nPss:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return 0.0


def generate(directory: str, size: str, workers: str) -> dict:
    from datasets.deepnets import GenerateConfig, generate_split
    from datasets.deepnets.generation.workers import OnThisMachine
    from datasets.deepnets.store.files import paths_of

    config = GenerateConfig(splits={"train": {"size": int(size)}})
    started = time.perf_counter()
    generated = generate_split(directory, "train", config, map_shards=OnThisMachine(int(workers)))
    seconds = time.perf_counter() - started
    files = [path.stat().st_size for path in paths_of(Path(directory), "train")]
    nodes = generated.split.n_nodes
    return {
        "seconds": seconds, "graphs_per_second": int(size) / seconds, "megabytes": sum(files) / 1e6,
        "bytes_per_graph": sum(files) / int(size), "shards_made": generated.made,
        "nodes_mean": float(nodes.mean()), "nodes_std": float(nodes.std()),
        "redrawn": len(generated.split.header.redrawn),
    }  # fmt: skip


def open_(directory: str) -> dict:
    from datasets.deepnets import open_split

    started = time.perf_counter()
    open_split(directory, "train")
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()
    return {
        "open_seconds": seconds,
        "high_water_mb": int(status.split("VmHWM:")[1].split()[0]) / 1024,
    }


def read(directory: str) -> dict:
    import numpy as np

    from datasets.deepnets import open_split

    split = open_split(directory, "train")
    chosen = np.random.default_rng(0).integers(0, len(split), 10_000).tolist()
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
    from datasets.deepnets.generation.workers import OnThisMachine
    from datasets.deepnets.validation.config import ValidateConfig
    from datasets.deepnets.validation.report import as_json
    from datasets.deepnets.validation.validate import validate_splits

    started = time.perf_counter()
    report = validate_splits(
        directory, ValidateConfig(splits=("train",)), map_blocks=OnThisMachine(int(workers))
    )
    seconds = time.perf_counter() - started
    duplicates = next(check.note for check in report.checks if check.check == "duplicates")
    failed = [f"{c.check}: {c.failed} {c.examples[:3]}" for c in report.failures]
    statistics = as_json(report)["statistics"]["train"]["ours"]
    return {
        "validate_seconds": seconds, "failed": failed,
        "duplicates": duplicates, "statistics": statistics,
    }  # fmt: skip


def reference(checkout: str, count: int) -> dict:
    """Graphs per second of the reference's generator, by its own clock."""
    with tempfile.TemporaryDirectory() as directory:
        script = Path(checkout) / "experiments" / "net_generator.py"
        extra = os.environ.get("PYTHONPATH", "")
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{checkout}{os.pathsep}{extra}",
        }
        output = subprocess.run(
            [sys.executable, str(script), "train", str(count), str(Path(directory) / "data")],
            check=True, capture_output=True, text=True, env=environment, cwd=directory,
        ).stdout  # fmt: skip
    seconds = float(output.split("total time=")[-1].split()[0])
    return {"graphs_per_second": count / seconds, "graphs": count}


STEPS: dict[str, Callable[..., dict]] = {
    "generate": generate,
    "open": open_,
    "read": read,
    "load": load,
    "validate": validate,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--directory", default=None, help="kept; by default a temporary one")
    parser.add_argument("--parts", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--reference", default=None, help="a checkout of facebookresearch/ppuda")
    parser.add_argument("--reference-graphs", type=int, default=100)
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step[0]](*options.step[1:])))
        return
    import torch

    print(json.dumps({"machine": machine(), "cpus": os.cpu_count(),
                      "python": platform.python_version(),
                      "torch": torch.__version__}), flush=True)  # fmt: skip
    if options.reference:
        print(
            json.dumps({"reference": reference(options.reference, options.reference_graphs)}),
            flush=True,
        )
    with tempfile.TemporaryDirectory() as temporary:
        for size in options.sizes:
            directory = Path(options.directory or temporary) / str(size)
            arguments = {"generate": (size, options.workers), "validate": (options.workers,)}
            for part in options.parts:
                figures = in_own_process(part, directory, *arguments.get(part, ()))
                print(json.dumps({"graphs": size, "part": part, **figures}), flush=True)


def machine() -> str:
    """Name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
