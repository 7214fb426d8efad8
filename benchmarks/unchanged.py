"""Prints digests of what a change that changes nothing must not change.

    python benchmarks/unchanged.py > after.txt
    git worktree add ../before main
    PYTHONPATH=../before python benchmarks/unchanged.py > before.txt
    diff before.txt after.txt

A line each for the two files of every split of DeepNets-1M (a hundred architectures of its rules),
for every loss of a seeded training and its weights, and for parameters that the hypernetwork of the
package predicts. Compare on one machine: another processor rounds differently. One thread, half a
minute.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

import ghn
from datasets.deepnets import (
    EVALUATION_SPLITS,
    GenerateConfig,
    MetaBatchConfig,
    MetaBatches,
    generate_split,
    meta_batches,
    open_split,
)
from datasets.images import load
from ghn.architectures import build
from ghn.models import GHN, GHNConfig
from ghn.train import TrainConfig, train

SPLITS = ("train", "search", *EVALUATION_SPLITS)
NETWORKS = ("resnet18", "vgg11_bn", "densenet121", "mobilenet_v3_small", "vit_b_16", "googlenet")
STEPS = 12


def show(name: str, digest: str) -> None:
    print(f"{name:<28} {digest}", flush=True)


def of_state(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def splits(directory: Path) -> None:
    config = GenerateConfig(shard_size=50, splits={split: {"size": 100} for split in SPLITS})
    for split in SPLITS:
        generate_split(directory, split, config)
        for suffix in (".h5", ".parquet"):
            content = (directory / f"{split}{suffix}").read_bytes()
            show(f"{split}{suffix}", hashlib.sha256(content).hexdigest())


def training(directory: Path) -> None:
    torch.manual_seed(0)
    network = GHN(GHNConfig(hidden=16, layers=2, heads=2, num_classes=10, decoder_channels=16))
    widths = MetaBatchConfig(channels=(16, 32), fc_dim=(64, 64))
    drawn = MetaBatches(open_split(directory, "train"), 2, seed=1, config=widths)
    config = TrainConfig(
        steps=STEPS, warmup_steps=2, meta_batch_size=2, batch_size=16, lr=1e-3, seed=1
    )
    images = load("digits", split="all", cache=None)
    train(config, network, lambda step: meta_batches(drawn, step), images, directory / "trained")
    for line in (directory / "trained" / "steps.jsonl").read_text().splitlines():
        record = json.loads(line)
        show(f"loss of step {record['step']}", repr(record["loss"]))
    show("weights", of_state(network.state_dict()))


def predictions() -> None:
    hypernetwork = ghn.from_pretrained()
    for name in NETWORKS:
        torch.manual_seed(0)  # what is not predicted keeps its initialisation
        model = build(name, num_classes=10, image_size=32)
        show(name, of_state(hypernetwork.predict(model)))


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with tempfile.TemporaryDirectory() as directory:
        splits(Path(directory))
        training(Path(directory))
    predictions()


if __name__ == "__main__":
    main()
