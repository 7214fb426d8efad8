"""Stage generate: the architectures of one split of DeepNets-1M and their graphs (paper table 3,
`docs/deepnets1m.md`).

Each split is a run of its own. No split waits for another: the train split needs the evaluation
splits to stay disjoint from them, and draws them afresh in a second
(`datasets.deepnets.generation.generate.disjoint_hashes`).
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from datasets.deepnets.generation.config import GenerateConfig
from datasets.deepnets.generation.generate import generate_split
from datasets.deepnets.generation.workers import MapItems
from flows.compute.fanout import fan_out
from flows.settings import paths

if TYPE_CHECKING:
    from flows.settings.base import BaseConfig
    from flows.settings.fanout import FanOut
    from flows.tracking.run import StageRun


def run(
    base: BaseConfig, fanout: FanOut, generate: GenerateConfig, stage: StageRun, split: str
) -> None:
    """Writes data/deepnets1m/<split>.h5 and <split>.parquet; shards are made where `fanout`
    says.
    """
    map_shards: MapItems = partial(fan_out, config=fanout, title=f"generate {split}")
    started = time.perf_counter()
    generated = generate_split(paths.DEEPNETS, split, generate, base.seed, map_shards)
    seconds = time.perf_counter() - started
    header = generated.split.header
    n_nodes = generated.split.n_nodes
    stage.log_metrics(
        {
            "architectures": len(generated.split),
            "nodes_mean": float(n_nodes.mean()),
            "nodes_std": float(n_nodes.std()),
            "graphs_per_second": len(generated.split) / seconds if generated.made else 0.0,
            "redrawn_for_disjointness": len(header.redrawn),
            **{f"rejected_{reason}": count for reason, count in header.rejected.items()},
        }
    )
