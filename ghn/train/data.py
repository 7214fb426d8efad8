"""What a step is given: images, labels and a meta-batch, as a function of the step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ghn.errors import ConfigError
from ghn.images import Images, endless_batches
from ghn.models.batch import GraphBatch
from ghn.train.config import TrainConfig
from ghn.train.step import MetaBatch


class StepData(NamedTuple):
    """The data of one step on one rank."""

    images_BCHW: Tensor
    labels_B: Tensor
    batch: MetaBatch


@dataclass(frozen=True)
class Phase:
    """A stretch of a run.

    Attributes:
        steps: how many.
        meta_batches: from a step number (of the run) to this rank's share of the meta-batches from
            it on.
        images: training images.
        batch_size: images per step.
        meta_batch_size: architectures per step, over all ranks.
    """

    steps: int
    meta_batches: Callable[[int], Iterator[MetaBatch]]
    images: Images
    batch_size: int
    meta_batch_size: int

    @property
    def epochs(self) -> int:
        """Epochs of its images that are begun."""
        return -(-self.steps // max(1, self.images.n_batches(self.batch_size)))

    def recipe(self) -> dict[str, int]:
        """The numbers of the phase; what the images and networks are, the caller knows."""
        names = ("steps", "batch_size", "meta_batch_size")
        return {name: getattr(self, name) for name in names}


def check_phases(phases: Sequence[Phase], config: TrainConfig, world: int) -> None:
    """Checks that every meta-batch divides among the ranks, and that the phases leave the run a
    last one.

    Raises:
        ConfigError: they do not; names the numbers.
    """
    config.share(world)
    for phase in phases:
        config.model_copy(update={"meta_batch_size": phase.meta_batch_size}).share(world)
    if phases and (total := sum(phase.steps for phase in phases)) >= config.steps:
        raise ConfigError(f"phases take {total} steps and leave none of steps = {config.steps}")


def step_data(
    start: int, phases: Sequence[Phase], config: TrainConfig, device: torch.device
) -> Generator[StepData, None, None]:
    """The data of steps from `start` on, through all phases, the last without end.

    A phase begins with a new epoch of its images, numbered on from those of the phases before it.

    Args:
        start: first step.
        phases: of the run.
        config: its seed decides the order of images and their augmentation, if it asks for that.
        device: where the images go.
    """
    first = epochs = 0
    for number, phase in enumerate(phases):
        end = first + phase.steps if number < len(phases) - 1 else None
        if end is None or start < end:
            begin = max(start, first)
            passed = epochs * phase.images.n_batches(phase.batch_size) + begin - first
            count = None if end is None else end - begin
            yield from islice(_data(phase, begin, passed, config, device), count)
        first, epochs = first + phase.steps, epochs + phase.epochs


def _data(
    phase: Phase, step: int, passed: int, config: TrainConfig, device: torch.device
) -> Iterator[StepData]:
    batches = endless_batches(
        phase.images,
        phase.batch_size,
        config.seed,
        start=passed,
        augment=config.augment,
        device=device,
    )
    for batch in phase.meta_batches(step):
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
    return _Moved(batch.graphs.to(device), batch.networks, batch.index)
