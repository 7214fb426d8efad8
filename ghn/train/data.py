"""What a step is given: images, labels and a meta-batch, as a function of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ghn.images import Images, endless_batches
from ghn.models.batch import GraphBatch
from ghn.train.config import TrainConfig
from ghn.train.step import MetaBatch


class StepData(NamedTuple):
    """The data of one step on one rank."""

    images_BCHW: Tensor
    labels_B: Tensor
    batch: MetaBatch


def step_data(
    start: int,
    config: TrainConfig,
    images: Images,
    meta_batches: Callable[[int], Iterator[MetaBatch]],
    device: torch.device,
) -> Iterator[StepData]:
    """The data of steps from `start` on, without end; the images are on `device`."""
    batches = endless_batches(
        images, config.batch_size, config.seed, start=start, augment=True, device=device
    )
    for batch in meta_batches(start):
        list(batch.networks)  # a loader may leave it to whoever asks first to build them
        yield StepData(*next(batches), batch)


@dataclass(frozen=True)
class _Moved:
    graphs: GraphBatch
    networks: Sequence[nn.Module]
    index: Sequence[int]


def on_device(batch: MetaBatch, device: torch.device) -> MetaBatch:
    """The meta-batch with its graphs on `device`."""
    if batch.graphs.device == device:
        return batch
    return _Moved(batch.graphs.to(device, non_blocking=True), batch.networks, batch.index)
