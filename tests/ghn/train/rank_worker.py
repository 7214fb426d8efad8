"""Run by two processes of a gloo group: trains a few steps and writes what the rank saw."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from train_setting import Batch, make_ghn, meta_batches

from datasets.images import load
from ghn.train import TrainConfig, meta_batch_losses, ranks, train
from ghn.train.data import on_device


def main(output: Path, poisoned: bool, device: str) -> None:
    torch.set_num_threads(1)
    images = load("digits", cache=None)
    m = 4
    config = TrainConfig(
        steps=4, meta_batch_size=m, batch_size=16, warmup_steps=1, lr=1e-3, gamma=1e-3
    )
    with ranks(device) as group:
        own = meta_batches(m, group.rank, group.world)
        ghn = make_ghn(seed=group.rank).to(group.device)  # training starts from rank 0's weights
        group.broadcast(ghn)
        batch = on_device(next(own(0)), group.device)
        x, y = next(images.batches(config.batch_size, config.seed, 0, True, device=group.device))
        _, pending = meta_batch_losses(ghn, batch, x, y, config)
        pending.run()
        assert not group.average_gradients(ghn.parameters(), failed=False)
        gradients = {name: p.grad.cpu() for name, p in ghn.named_parameters()}
        torch.save(gradients, output / f"gradients-{group.world}-{group.rank}.pt")
        ghn.zero_grad()

        def batches(step: int) -> Iterator[Batch]:
            for t, part in enumerate(own(step), step):
                if poisoned and t == 2 and group.rank == group.world - 1:
                    forward = part.networks[0].forward
                    part.networks[0].forward = lambda z, f=forward: f(z) * math.nan  # type: ignore[method-assign]
                if poisoned and t == 3 and group.rank == group.world - 1:
                    part.networks[0].forward = lambda z: torch.empty(2**58, dtype=torch.uint8)  # type: ignore[method-assign]
                yield part

        result = train(config, ghn, batches, images, output / f"run-{group.world}", ranks=group)
        torch.save(ghn.state_dict(), output / f"weights-{group.world}-{group.rank}.pt")
        (output / f"result-{group.world}-{group.rank}.json").write_text(
            json.dumps({"skipped": result.skipped})
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "poisoned", (*sys.argv[3:], "cpu")[0])
