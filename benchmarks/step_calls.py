"""What a training step asks of the thread that launches it: operations dispatched, by part, and
processor time where the images are so few that little else is measured.

    python benchmarks/step_calls.py
    python benchmarks/step_calls.py --pixels 16 --channels 16 --m 4 --images 32 --max-cost 2e7

A GPU runs networks of CIFAR's size faster than Python can ask for them, and so does a CPU at 16
pixels: there, these numbers are the speed of training. They are of one thread, in processor time,
the least of `--rounds`, so that other work on the machine hardly counts.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from datasets.deepnets import GenerateConfig, MetaBatchConfig, MetaBatches, generate_split
from ghn.models import GHN, GHNConfig
from ghn.train import TrainConfig
from ghn.train.data import StepData
from ghn.train.distributed import Ranks
from ghn.train.update import Updates

OUTSIDE = "the rest"


class Calls(TorchDispatchMode):
    """Counts operations by the innermost part that they are dispatched in.

    Attributes:
        counts: for each part how often each operation was dispatched.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, Counter[str]] = {}
        self._parts = [OUTSIDE]

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(function).removeprefix("aten.")
        if name.startswith("profiler._record_function_enter"):
            self._parts.append(str(args[0]))
        elif name.startswith("profiler._record_function_exit"):
            self._parts.pop()
        elif not name.startswith(("prim.", "profiler.")):
            self.counts.setdefault(self._parts[-1], Counter())[name] += 1
        return function(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """Of all parts."""
        return sum(counter.total() for counter in self.counts.values())


def least(do: Callable[[], object], rounds: int) -> float:
    """Milliseconds of this process's time."""
    found = []
    for _ in range(rounds):
        begin = time.process_time()
        do()
        found.append(time.process_time() - begin)
    return 1000 * min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--m", type=int, default=8)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--max-cost", type=float, default=None, help="multiply-adds of a network")
    parser.add_argument("--batches", type=int, default=4, help="meta-batches")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--operations", type=int, default=0, help="also the most frequent ones")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    widths = MetaBatchConfig(channels=(options.channels, options.channels))
    with tempfile.TemporaryDirectory() as directory:
        config = GenerateConfig(shard_size=50, splits={"train": {"size": 64}})
        split = generate_split(directory, "train", config, 1).split
        dataset = MetaBatches(
            split, options.m, 10, options.pixels, 1, config=widths, max_cost=options.max_cost
        )
        batches = [dataset[number] for number in range(options.batches)]
    for batch in batches:
        if hasattr(batch.networks, "pack"):
            batch.networks.pack()  # as a loader's worker does
    sent = [pickle.dumps(batch) for batch in batches]
    received = least(lambda: [list(pickle.loads(data).networks) for data in sent], options.rounds)
    x_BCHW = torch.randn(options.images, 3, options.pixels, options.pixels)
    x_BCHW = x_BCHW.to(memory_format=torch.channels_last)
    y_B = torch.arange(options.images) % 10
    ghn = GHN(
        GHNConfig(
            hidden=options.hidden,
            num_classes=10,
            decoder_kernel=11,
            decoder_channels=options.hidden,
        )
    )
    updates = Updates(ghn, TrainConfig(batch_size=options.images), Ranks())
    steps = [StepData(x_BCHW, y_B, batch) for batch in batches]
    for number, data in enumerate(steps):
        updates.take(number, data)
    with Calls() as calls:
        for number, data in enumerate(steps):
            updates.take(number, data)
    seconds = [least(lambda data=data: updates.take(9, data), options.rounds) for data in steps]
    parameters = sum(
        1 for batch in batches for network in batch.networks for _ in network.parameters()
    )
    n, mean = options.batches, sum(seconds) / options.batches
    print(f"| a step of m = {options.m}, b = {options.images}, {options.pixels} pixels,"
          f" C = {options.channels}: mean of {n} | |\n|---|---|")  # fmt: skip
    print(f"| predicted tensors | {parameters / n:.0f} |")
    print(f"| operations | {calls.total / n:.0f} |")
    for part, counter in calls.counts.items():
        most = "".join(
            f", {name} {k / n:.0f}" for name, k in counter.most_common(options.operations)
        )
        print(f"| ... {part} | {counter.total() / n:.0f}{most} |")
    print(f"| milliseconds | {mean:.1f} |")
    print(f"| ... to unpickle a batch and have its networks | {received / n:.1f} |")
    print(f"| network-images a second | {1000 * options.m * options.images / mean:.0f} |")


if __name__ == "__main__":
    main()
