"""Run by two processes of a gloo group, each with a disk of its own: interrupted, then resumed.

With "slow" as second argument, rank 0's evaluation takes longer than operations may.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from train_setting import Batch, make_ghn, meta_batches

from datasets.images import load
from ghn.errors import ConfigError
from ghn.models import GHN
from ghn.train import TrainConfig, ranks, train

CONFIG = TrainConfig(
    steps=4, meta_batch_size=2, batch_size=8, warmup_steps=1, lr=1e-3, checkpoint_every=1
)
TIMEOUT_SECONDS = 30


class StopError(Exception):
    pass


def main(output: Path, slow: bool) -> None:
    torch.set_num_threads(1)
    images = load("digits", cache=None)
    with ranks("cpu", timeout_minutes=TIMEOUT_SECONDS / 60) as group:
        own = meta_batches(2, group.rank, group.world)
        disk = output / f"disk-{group.rank}"

        def broken(step: int) -> Iterator[Batch]:
            for t, part in enumerate(own(step), step):
                if t == 2:
                    raise StopError
                yield part

        def evaluate(ghn: GHN) -> dict[str, float]:
            time.sleep(TIMEOUT_SECONDS + 3)
            return {"accuracy": 0.1}

        whole = make_ghn()
        train(CONFIG, whole, own, images, disk / "whole", ranks=group)
        with suppress(StopError):
            train(CONFIG, make_ghn(), broken, images, disk / "cut", ranks=group)
        ghn = make_ghn(seed=group.rank + 5)
        config = CONFIG.model_copy(update={"evaluate_every": 3})
        train(
            config, ghn, own, images, disk / "cut", ranks=group,
            evaluate=evaluate if slow and group.is_main else None,
        )  # fmt: skip
        assert disk.exists() == group.is_main
        for name, value in whole.state_dict().items():
            assert torch.equal(value, ghn.state_dict()[name]), name
        other = CONFIG.model_copy(update={"lr": 2e-3})
        # an error of input is one on all ranks, none waits for ever
        with pytest.raises(ConfigError, match=r"lr = 0\.001 there, 0\.002 here"):
            train(other, make_ghn(), own, images, disk / "cut", ranks=group)
        group.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "slow")
