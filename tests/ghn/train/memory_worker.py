"""Run by two processes of a gloo group: trainings that keep less in memory."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from train_setting import make_ghn, meta_batches

from datasets.images import load
from ghn.models import GHN
from ghn.train import TrainConfig, ranks, train

CONFIG = TrainConfig(
    steps=4, meta_batch_size=4, batch_size=8, warmup_steps=1, lr=1e-2, checkpoint_every=2,
    schedule="constant",
)  # fmt: skip


def main(output: Path) -> None:
    torch.set_num_threads(1)
    images = load("digits", cache=None)
    with ranks("cpu") as group:
        batches = meta_batches(4, group.rank, group.world)

        def trained(name: str, **changes: object) -> GHN:
            ghn = make_ghn()
            config = CONFIG.model_copy(update=changes)
            train(config, ghn, batches, images, output / name, ranks=group)
            return ghn

        whole = trained("whole").state_dict()
        for change in ("recompute", "shard_optimizer"):
            found = trained(change, **{change: True}).state_dict()
            assert all(torch.equal(found[name], value) for name, value in whole.items()), change
        # what one kind of optimizer began the other goes on with
        for first, then in ((True, False), (False, True), (True, True)):
            name = f"{first}-{then}"
            trained(name, steps=2, shard_optimizer=first)
            found = trained(name, shard_optimizer=then).state_dict()
            assert all(torch.equal(found[key], value) for key, value in whole.items()), name
        if group.is_main:
            (output / "done").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
