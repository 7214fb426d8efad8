"""Contenders of a training step: ours, the same networks with ordinary parameters, the reference.

Each takes a meta-batch of samples (`draw`) with images and labels, and gives a step that can be
timed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.deepnets import (
    Architecture,
    GenerateConfig,
    MetaBatchConfig,
    MetaBatches,
    Network,
    build_graph,
    generate_split,
)
from datasets.deepnets.networks.batch import Networks
from ghn.models import GHN, GHNConfig
from ghn.models.batch import GraphBatch
from ghn.train import TrainConfig, meta_batch_losses
from ghn.train.optimizer import LossScaler, make_optimizer

LEARNING_RATE = 4e-4
OURS, REFERENCE = "ours", "reference"


@dataclass(frozen=True)
class Sample:
    """An architecture with its drawn sizes."""

    architecture: Architecture
    channels: int
    fc_dim: int


@dataclass(frozen=True)
class Batch:
    graphs: GraphBatch
    networks: list[nn.Module]
    index: range


Step = Callable[[], None]


@dataclass(frozen=True)
class Once:
    """Makes steps each of which can be done once."""

    make: Callable[[], Step]


Prepare = Callable[[list[Sample], Tensor, Tensor], Step | Once]
"""From a meta-batch, images and labels to their step."""


def draw(rounds: int, m: int, seed: int) -> list[list[Sample]]:
    """Meta-batches as the training loop would see them."""
    config = GenerateConfig(
        shard_size=100, splits={"benchmark": {"size": max(200, 2 * rounds * m)}}
    )
    with tempfile.TemporaryDirectory() as directory:
        split = generate_split(directory, "benchmark", config, seed).split
        batches = MetaBatches(split, m, seed=seed, config=MetaBatchConfig(wider_nets=False))
        found = []
        for step in range(rounds):
            networks = batches[step].networks
            assert isinstance(networks, Networks)
            pairs = zip(networks.architectures, networks.scalings, strict=True)
            found.append([Sample(a, s.channels, s.fc_dim or 256) for a, s in pairs])
    return found


def ours(hidden: int) -> Prepare:
    """The step of `ghn.train`."""
    ghn = GHN(
        GHNConfig(
            hidden=hidden,
            layers=3,
            heads=8,
            num_classes=10,
            decoder_channels=hidden,
            decoder_kernel=11,
        )
    )
    optimizer = make_optimizer(ghn, TrainConfig(lr=LEARNING_RATE))

    def prepare(samples: list[Sample], images: Tensor, labels: Tensor) -> Step:
        config = TrainConfig(meta_batch_size=len(samples), batch_size=len(images), lr=LEARNING_RATE)
        scaler = LossScaler(config, torch.device("cpu"))
        graphs = [build_graph(s.architecture, s.channels, s.fc_dim) for s in samples]
        networks: list[nn.Module] = [
            Network(s.architecture, s.channels, s.fc_dim, device="meta").train() for s in samples
        ]
        batch = Batch(GraphBatch.from_graphs(graphs), networks, range(len(samples)))
        images = images.to(memory_format=torch.channels_last)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            losses, pending = meta_batch_losses(ghn, batch, images, labels, config)
            pending.run()
            scaler.step(optimizer, config.clip)
            losses.stack().tolist()

        return step

    return prepare


def plain(memory_format: torch.memory_format) -> Prepare:
    """Our target networks alone, each with parameters of its own: forward and backward."""

    def prepare(samples: list[Sample], images: Tensor, labels: Tensor) -> Step:
        images = images.contiguous(memory_format=memory_format)
        networks = [
            Network(s.architecture, s.channels, s.fc_dim).to(memory_format=memory_format).train()
            for s in samples
        ]

        def step() -> None:
            for network in networks:
                network.zero_grad(set_to_none=True)
                cross_entropy(network(images), labels).backward()

        return step

    return prepare


def reference(
    checkouts: dict[str, Path],
    hidden: int,
    alone: bool,
    grid: int = 11,
    classes: int = 10,
    device: str = "cpu",
) -> Prepare:
    """The reference implementation's step or, `alone`, its target networks with parameters of their
    own. Images above 64 pixels are ImageNet's to it.
    """
    sys.path[:0] = [str(checkouts["ppuda"]), str(checkouts["ghn3"])]
    from ghn3 import GHN3
    from ghn3.graph import Graph, GraphBatch
    from ghn3.ops import Network, NetworkLight
    from ppuda.deepnets1m.genotypes import from_dict

    ghn = GHN3(
        max_shape=(hidden, hidden, grid, grid), num_classes=classes,
        hypernet="gatedgnn", decoder="conv", weight_norm=True,
        ve=True, layernorm=True, hid=hidden, layers=3, heads=8, is_ghn2=False,
    ).to(device).train()  # fmt: skip
    optimizer = torch.optim.AdamW(ghn.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)

    def prepare(samples: list[Sample], images: Tensor, labels: Tensor) -> Step | Once:
        arguments = []
        for sample in samples:
            fields = sample.architecture.to_dict()
            fields |= {
                "C": sample.channels,
                "fc_dim": sample.fc_dim,
                "genotype": from_dict(fields["genotype"]),
            }
            large = images.shape[-1] > 64
            arguments.append({**fields, "is_imagenet_input": large, "num_classes": classes})

        def loss_of(model: Any) -> Tensor:
            out = model(images)
            return cross_entropy(out[0] if isinstance(out, tuple) else out, labels)

        if alone:
            own = [Network(**fields).to(device).train() for fields in arguments]

            def step_alone() -> None:
                for network in own:
                    network.zero_grad(set_to_none=True)
                    loss_of(network).backward()

            return step_alone
        graphs = []
        for fields in arguments:
            graphs.append(Graph(Network(**fields), ve_cutoff=50))
            graphs[-1].net_args = fields
        batch = GraphBatch(graphs, dense=True)

        def step(networks: list[Any]) -> None:
            optimizer.zero_grad()
            models = ghn(
                networks, batch, bn_track_running_stats=True, keep_grads=True, reduce_graph=True
            )
            penalty = sum(torch.norm(p, p="fro") for model in models for p in model.parameters())
            loss = 3e-5 * penalty
            for model in models:
                loss = loss + loss_of(model)
            loss = loss / len(models)
            loss.backward()
            nn.utils.clip_grad_norm_(ghn.parameters(), 5)
            optimizer.step()
            loss.item()

        # Its networks are used up by a step.
        return Once(lambda: partial(step, [NetworkLight(**fields) for fields in arguments]))

    return prepare
