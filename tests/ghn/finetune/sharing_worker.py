"""Run by one or two processes of a gloo group: fine-tuning that they share."""

from __future__ import annotations

import json
import math
import sys
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from datasets.images import load
from ghn.errors import ConfigError
from ghn.finetune import Curve, FinetuneConfig, finetune

CONFIG = FinetuneConfig(
    steps=6, batch_size=16, lr=0.05, evaluate_at=(3,), evaluation_batch=24, optimizer="adamw"
)


class _Poison(nn.Module):
    """From the third call in training on, the last rank's values are not numbers."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.calls = rank, 0

    def forward(self, x_BCHW: Tensor) -> Tensor:
        self.calls += self.training
        bad = self.rank == 1 and self.training and self.calls >= 3
        return x_BCHW * math.nan if bad else x_BCHW


def network(*more: nn.Module) -> nn.Module:
    """Without batch norm and dropout: what ranks share is then what one process does."""
    torch.manual_seed(3)
    return nn.Sequential(
        *more, nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


class StopError(Exception):
    pass


def main(output: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    images = load("digits", cache=None, image_size=16)
    train, val = images.subset(range(200)), images.subset(range(200, 290))

    def run(model: nn.Module, **options: object) -> Curve:
        return finetune(model, train, val, CONFIG, group=dist.group.WORLD, **options)  # type: ignore[arg-type]

    whole = network()
    curve = run(whole)
    path = output / f"checkpoint-{world}"

    def stop(step: int) -> None:
        if step == 5:
            raise StopError

    with suppress(StopError):
        run(network(), checkpoint=path, on_step=stop)
    dist.barrier()
    resumed = network()
    again = run(resumed, checkpoint=path)
    dropped, uninterrupted = network(nn.Dropout(0.5)), network(nn.Dropout(0.5))
    run(uninterrupted)
    with suppress(StopError):
        run(network(nn.Dropout(0.5)), checkpoint=path.with_suffix(".dropout"), on_step=stop)
    dist.barrier()
    run(dropped, checkpoint=path.with_suffix(".dropout"))
    found = {
        "accuracies": curve.val_accuracy, "losses": curve.train_loss, "again": again.val_accuracy,
        "same": all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(),
                                                      strict=True)),
        "dropout": torch.equal(uninterrupted[-1].weight, dropped[-1].weight),
        "poisoned": [run(network(_Poison(rank))).diverged, curve.diverged],
    }  # fmt: skip
    if world > 1:
        norms = nn.Sequential(nn.BatchNorm2d(3), *network())
        run(norms)
        found["norms"] = [buffer.tolist() for buffer in norms.buffers()]
        with suppress(ConfigError):
            odd = CONFIG.model_copy(update={"batch_size": 15})
            finetune(network(), train, val, odd, group=dist.group.WORLD)
            found["odd"] = "taken"
    torch.save(whole.state_dict(), output / f"weights-{world}-{rank}.pt")
    (output / f"found-{world}-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
