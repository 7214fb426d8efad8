"""Everything that is to be measured on a GPU, in one command of at most eight minutes.

    python benchmarks/gpu/run.py --out results/gpu
    python benchmarks/gpu/run.py --reference ppuda=PATH ghn3=PATH       # beside the reference
    python benchmarks/gpu/run.py --device cpu --tiny --out /tmp/gpu     # to try the script itself

It needs the library and DeepNets-1M, PyTorch 2.11 or newer and no network; CIFAR-10 (under
GHN_DATA_ROOT) is trained on if it is there, scikit-learn's digits if not. Each part is a process
with a time of its own; what it finds is in `results.json` and what it says in `log.txt` as it
comes, however it ends.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NEEDED = (
    "torch", "torchvision", "numpy", "pydantic", "safetensors", "typer", "lazy_loader", "h5py",
    "pyarrow", "tqdm", "PIL", "pytest",
)  # fmt: skip
PARTS = (  # name, seconds at most, ranks
    ("step-cifar", 50, 1),
    ("step-imagenet", 50, 1),
    ("predict", 40, 1),
    ("finetune", 35, 1),
    ("finetune-4", 35, 4),
    ("ranks-1", 22, 1),
    ("ranks-2", 22, 2),
    ("ranks-4", 22, 4),
)
TESTS_SECONDS = 110


class Log:
    """Results and what was said, on disk as they come."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, Any] = {}
        self._json, self._text = directory / "results.json", directory / "log.txt"
        self._text.write_text("")

    def say(self, text: str) -> None:
        """Prints a line and keeps it."""
        print(text, flush=True)
        with self._text.open("a") as file:
            file.write(text + "\n")

    def add(self, name: str, found: object) -> None:
        """Keeps what a part found."""
        self.results[name] = found
        temporary = self._json.with_suffix(".part")
        temporary.write_text(json.dumps(self.results, indent=1))
        temporary.replace(self._json)


def missing() -> list[str]:
    """Packages that are needed and not here."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def command(name: str, options: argparse.Namespace, ranks: int, seconds: float) -> list[str]:
    """How a part is started."""
    part = [str(ROOT / "benchmarks" / "gpu" / "parts.py"), name, "--device", options.device]
    part += ["--out", str(options.out), "--seconds", str(seconds)]
    part += ["--tiny"] if options.tiny else []
    part += ["--reference", *options.reference] if options.reference else []
    if ranks == 1:
        return [sys.executable, *part]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return [sys.executable, *launcher, *part]


def run(log: Log, name: str, arguments: list[str], seconds: float) -> None:
    """Runs a part; what it says and has found is on disk as it comes."""
    begin = time.perf_counter()
    environment = {
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",  # what a part said before its time was over
    }
    log.say(f"--- {name}, at most {seconds:.0f} s")
    # A group of its own, so that ranks end with their launcher when the time is over.
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    found: dict[str, Any] = {}
    over = threading.Event()
    timer = threading.Timer(seconds, lambda: (over.set(), _end(process)))
    timer.start()
    try:
        for line in process.stdout:
            log.say(line.rstrip())
            if line.startswith('{"found"'):
                found |= json.loads(line)["found"]
                log.add(name, found)
        code = process.wait()
    finally:
        timer.cancel()
        _end(process)
    spent = round(time.perf_counter() - begin, 1)
    log.add(name, found | {"exit_code": 124 if over.is_set() else code, "seconds": spent})
    log.say(f"{name}: {json.dumps(log.results[name])[:400]}")


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def best_ranks(results: dict[str, Any]) -> int:
    """The number of ranks that processed most network-images in a second."""
    speeds = {
        ranks: results.get(f"ranks-{ranks}", {}).get("network_images_per_second", 0.0)
        for ranks in (1, 2, 4)
    }
    return max(speeds, key=lambda ranks: speeds[ranks])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes: to try the script")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all of it")
    parser.add_argument(
        "--reference", nargs=2, metavar="NAME=PATH", help="checkouts: ppuda=... ghn3=..."
    )
    parser.add_argument("--only", nargs="*", default=None, help="parts; all by default")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.reference = [
        f"{name}={Path(path).resolve()}"
        for name, path in (pair.split("=", 1) for pair in options.reference or ())
    ]
    # Whoever ends this ends its parts, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    end = time.perf_counter() + 60 * options.minutes - 10
    slower = 4 if options.tiny else 1  # a CPU is slow to start
    log = Log(options.out)
    absent = missing()
    log.add("environment", {"python": platform.python_version(), "missing": absent})
    log.say(f"missing packages: {', '.join(absent) or 'none'}")
    if absent:
        sys.exit(f"packages that are missing: {', '.join(absent)}")

    def wanted(name: str) -> bool:
        return options.only is None or name in options.only

    if wanted("tests"):
        environment = {"GHN_GPU_TESTS": options.device}
        os.environ.update(environment)
        tests = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu"]
        tests += ["-p", "no:cacheprovider", "-vv"]  # a line for each, as it ends
        run(log, "tests", tests, min(TESTS_SECONDS * slower, end - time.perf_counter()))
    for name, seconds, ranks in PARTS:
        left = end - time.perf_counter()
        if wanted(name) and left > 15:
            limit = min(seconds * slower, left)
            run(log, name, command(name, options, ranks, limit - 12), limit)
    left = end - time.perf_counter()
    if wanted("train") and left > 20:
        ranks = best_ranks(log.results)
        run(log, "train", command("train", options, ranks, left - 15), left)


if __name__ == "__main__":
    main()
