"""Whether data keeps the training loop waiting: the loop itself, on digits, with its own loader.

    python benchmarks/train_loop.py --threads 1 --steps 30

For architectures of the published rules (b = 32) and for the cheap ones of the laptop profile (b =
16): how long a step takes, the share of it that the loop waits for data, and how long preparing a
step's data takes by itself (graphs, networks on the meta device, augmented images), which a thread
does during the step before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from datasets.deepnets import (
    GenerateConfig,
    MetaBatchConfig,
    MetaBatches,
    generate_split,
    meta_batches,
)
from datasets.images import load
from ghn.models import GHN, GHNConfig
from ghn.train import TrainConfig, train

SETTINGS = {
    "published rules, b = 32": ({}, MetaBatchConfig(wider_nets=False), 32, 32),
    "laptop profile, b = 16": (
        {"max_multiply_adds": 2.0e7, "norm": "always"},
        MetaBatchConfig(channels=(16, 32), fc_dim=(64, 256)),
        16,
        16,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = load("digits", split="train", image_size=32)
    print(
        f"m=4, d=32, {options.threads} threads, {options.steps} steps, torch {torch.__version__}\n"
    )
    print(
        "| architectures | seconds a step | share waited | seconds to prepare a step's data"
        " |\n|---|---|---|---|"
    )
    for name, (rules, sizes, batch_size, decoder_channels) in SETTINGS.items():
        config = GenerateConfig(shard_size=100, splits={"benchmark": {"size": 400, **rules}})
        with tempfile.TemporaryDirectory() as directory:
            split = generate_split(directory, "benchmark", config).split
            data = MetaBatches(split, 4, num_classes=images.num_classes, config=sizes)
            begin = time.perf_counter()
            for step in range(10):
                list(data[step].networks)
                next(images.batches(batch_size, 1, 0, True, start=step))
            preparation = (time.perf_counter() - begin) / 10
            recipe = TrainConfig(
                steps=options.steps,
                warmup_steps=2,
                meta_batch_size=4,
                batch_size=batch_size,
                log_every=options.steps,
            )
            ghn = GHN(
                GHNConfig(
                    hidden=32, num_classes=10, decoder_channels=decoder_channels, decoder_kernel=11
                )
            )
            begin = time.perf_counter()
            train(
                recipe,
                ghn,
                lambda start, d=data: meta_batches(d, start),
                images,
                Path(directory) / "run",
            )
            seconds = (time.perf_counter() - begin) / options.steps
            last = json.loads(
                (Path(directory) / "run" / "steps.jsonl").read_text().splitlines()[-1]
            )
            print(
                f"| {name} | {seconds:.2f} | {last['waited']:.2%} | {preparation:.3f} |", flush=True
            )


if __name__ == "__main__":
    main()
