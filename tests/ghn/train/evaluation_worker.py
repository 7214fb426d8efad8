"""Run by two processes of a gloo group: a training whose evaluation is shared."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from train_setting import make_ghn, meta_batches

from datasets.images import load
from ghn.models import GHN
from ghn.train import TrainConfig, ranks, train

TIMEOUT_SECONDS = 8
CONFIG = TrainConfig(
    steps=4, meta_batch_size=2, batch_size=8, warmup_steps=1, lr=1e-2, evaluate_every=2, ema=0.9
)


class Norms:
    """A part is the norm of a weight: equal only where ranks evaluate the same hypernetwork."""

    def __init__(self, pause: float = 0.0) -> None:
        self.pause, self.done = pause, list[int]()

    def __call__(self, ghn: GHN) -> Mapping[str, float]:
        return self.metrics([self.part(ghn, number) for number in range(len(self))])

    def __len__(self) -> int:
        return 5

    def part(self, ghn: GHN, number: int) -> float:
        self.done.append(number)
        time.sleep(self.pause if number == 1 else 0.0)
        assert not ghn.training
        return float(list(ghn.parameters())[number].norm())

    def metrics(self, values: Sequence[float]) -> Mapping[str, float]:
        return {"accuracy": sum(values)} | {str(k): value for k, value in enumerate(values)}


def main(output: Path, pause: float) -> None:
    torch.set_num_threads(1)
    images = load("digits", cache=None)
    with ranks("cpu", timeout_minutes=TIMEOUT_SECONDS / 60) as group:
        evaluate = Norms(pause)
        result = train(
            CONFIG, make_ghn(seed=group.rank), meta_batches(2, group.rank, group.world), images,
            output / f"run-{group.world}", ranks=group, evaluate=evaluate,
        )  # fmt: skip
        found = {"done": evaluate.done, "metrics": result.metrics}
        (output / f"found-{group.world}-{group.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
