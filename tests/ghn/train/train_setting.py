"""A tiny but real setting: three DeepNets architectures, digits, a GHN-3 of width 16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import nn

from datasets.deepnets import Architecture, Network, build_graph
from ghn.models import GHN, GHNConfig
from ghn.models.batch import GraphBatch
from ghn.train.log import read_log

_COMMON = {"stem_pool": False, "n_cells": 4, "ks": 3, "fc_dim": 64}
ARCHITECTURES = [
    {
        **_COMMON, "stem_type": 0, "norm": "bnorm", "preproc": True, "glob_avg": True, "C_mult": 1,
        "fc_layers": 2,
        "genotype": {
            "normal": [["conv_3x3", 0], ["sep_conv_3x3", 1]], "normal_concat": [2],
            "reduce": [["max_pool_3x3", 0], ["skip_connect", 1]], "reduce_concat": [2],
        },
    },
    {
        **_COMMON, "stem_type": 1, "norm": "bnorm", "preproc": True, "glob_avg": True, "C_mult": 2,
        "fc_layers": 1,
        "genotype": {
            "normal": [["conv_1x1", 0], ["cse", 1]], "normal_concat": [2],
            "reduce": [["conv_3x3", 0], ["dil_conv_3x3", 1]], "reduce_concat": [2],
        },
    },
    {
        **_COMMON, "stem_type": 0, "norm": "bnorm", "preproc": False, "glob_avg": True, "C_mult": 1,
        "fc_layers": 1,
        "genotype": {
            "normal": [["msa", 0], ["conv_1x1", 1]], "normal_concat": [2],
            "reduce": [["conv_1x1", 0], ["skip_connect", 1]], "reduce_concat": [2],
        },
    },
]  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Part of a meta-batch."""

    graphs: GraphBatch
    networks: list[nn.Module]
    index: list[int]


def make_batch(indices: list[int], first: int = 0, channels: int = 16) -> Batch:
    architectures = [Architecture.from_dict(ARCHITECTURES[i % len(ARCHITECTURES)]) for i in indices]
    return Batch(
        GraphBatch.from_graphs([build_graph(a, channels, 64) for a in architectures]),
        [Network(a, channels, 64, device="meta").train() for a in architectures],
        list(range(first, first + len(indices))),
    )


def meta_batches(m: int, rank: int = 0, world: int = 1) -> Callable[[int], Iterator[Batch]]:
    """Random architectures that depend on the step alone."""
    share = m // world

    def from_step(step: int) -> Iterator[Batch]:
        for t in count(step):
            indices = np.random.default_rng(t).integers(len(ARCHITECTURES), size=m).tolist()
            yield make_batch(indices[rank * share : (rank + 1) * share], rank * share)

    return from_step


def make_ghn(seed: int = 0, **changes: object) -> GHN:
    torch.manual_seed(seed)
    fields = {
        "hidden": 16,
        "layers": 2,
        "heads": 2,
        "num_classes": 10,
        "decoder_channels": 16,
        "decoder_kernel": 11,
    }
    return GHN(GHNConfig(**(fields | changes)))


def step_losses(directory: Path) -> list[float]:
    """The losses of a run's steps; a line that a kill cut is left out."""
    return [step["loss"] for step in read_log(directory / "steps.jsonl")]
