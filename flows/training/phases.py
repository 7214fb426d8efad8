"""The phases of a training: from params.yaml to images and meta-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from datasets.images import ImageStream, ImageTensors
from flows.settings.phases import begun

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from datasets.deepnets import MetaBatch, MetaBatchConfig, Split
    from flows.settings.phases import PhaseConfig
    from flows.settings.train import TrainStageConfig
    from flows.training.population import Population
    from ghn.models import GHNConfig
    from ghn.train import Phase, Ranks

_CHUNK = 4096
"""Images that are resized at a time."""


@dataclass(frozen=True)
class Setting:
    """A phase takes this, all of it filled in.

    Attributes:
        steps: how many; None for the rest of the run.
        image_size: side in pixels.
        networks: how networks are sized.
        batch_size: images per step.
        meta_batch_size: architectures per step.
        max_cost: bound on the multiply-adds of networks.
        norm: "always" or "never", where networks must, or must not, have batch norms.
        population: whether networks of `train.population` take part.
    """

    steps: int | None
    image_size: int
    networks: MetaBatchConfig
    batch_size: int
    meta_batch_size: int
    max_cost: float | None
    norm: Literal["always", "never"] | None = None
    population: bool = True

    def identity(self) -> dict[str, Any]:
        """Describes the phase for the digest of a run."""
        return {**vars(self), "networks": self.networks.model_dump(mode="json")}


def settings(config: TrainStageConfig, image_size: int) -> list[Setting]:
    """The phases that a run comes to, the last without a number of steps; one where none are
    named.
    """
    if not config.phases:
        whole = (config.batch_size, config.meta_batch_size, None)
        return [Setting(None, image_size, config.networks, *whole)]
    stretches = begun(config.phases, config.steps)
    found = [_setting(phase, config, image_size) for phase in stretches]
    return [*found[:-1], replace(found[-1], steps=None)]


def _setting(phase: PhaseConfig, config: TrainStageConfig, image_size: int) -> Setting:
    sizes = {"channels": phase.channels, "fc_dim": phase.fc_dim}
    changes = {name: value for name, value in sizes.items() if value is not None}
    networks = type(config.networks)(**(config.networks.model_dump() | changes))
    return Setting(
        phase.steps,
        phase.image_size or image_size,
        networks,
        phase.batch_size or config.batch_size,
        phase.meta_batch_size or config.meta_batch_size,
        phase.max_cost,
        phase.norm,
        phase.population,
    )


def fitted(config: TrainStageConfig, n_images: int) -> TrainStageConfig:
    """The section with no batch larger than the data set, so that a small one trains as well.

    Args:
        config: section `train`.
        n_images: training images that there are.
    """

    def fits(size: int | None) -> int | None:
        return size and min(size, n_images)

    stretches = tuple(
        phase.model_copy(update={"batch_size": fits(phase.batch_size)}) for phase in config.phases
    )
    return config.model_copy(update={"batch_size": fits(config.batch_size), "phases": stretches})


def population_of(config: TrainStageConfig) -> Population | None:
    """The networks that `train.population` names; None where it is null.

    Raises:
        GHNError: an entry names nothing.
    """
    if config.population is None:
        return None
    from flows.training.population import Population

    return Population(config.population)


def phases(
    found: Sequence[Setting],
    split: Split,
    images: ImageTensors | ImageStream,
    seed: int,
    group: Ranks,
    workers: int,
    population: Population | None = None,
    config: GHNConfig | None = None,
) -> list[Phase]:
    """The phases as `ghn.train` takes them; the last one's number of steps is not used.

    Args:
        found: of `settings`.
        split: architectures.
        images: training images at their own size.
        seed: of the meta-batches.
        group: this process among its peers.
        workers: processes that build graphs ahead.
        population: networks besides, or instead of, those of `split`.
        config: of the hypernetwork, for which the workers then plan what is decoded.
    """
    from ghn.train import Phase

    at_size = cache(lambda size: _at_size(images, size))
    return [
        Phase(
            setting.steps or 0,
            _meta_batches(
                setting, split, images.num_classes, seed, group, workers, population, config
            ),
            at_size(setting.image_size),
            setting.batch_size,
            setting.meta_batch_size,
        )
        for setting in found
    ]


def _meta_batches(
    setting: Setting,
    split: Split,
    num_classes: int,
    seed: int,
    group: Ranks,
    workers: int,
    population: Population | None,
    config: GHNConfig | None,
) -> Callable[[int], Iterator[MetaBatch]]:
    """Makes what leads from a step number to this rank's share of the meta-batches from it on."""
    from datasets.deepnets import MetaBatches, meta_batches
    from flows.training.planned import Planned

    def deepnets() -> MetaBatches:
        return MetaBatches(
            split,
            setting.meta_batch_size,
            num_classes,
            setting.image_size,
            seed,
            group.rank,
            group.world,
            setting.networks,
            setting.max_cost,
            setting.norm,
        )

    batches: Dataset[MetaBatch]
    if population is None or not setting.population:
        batches = deepnets()
    else:
        from flows.training.population import PopulationBatches

        batches = PopulationBatches(
            population,
            population.members(num_classes, setting.image_size, seed, setting.max_cost),
            setting.meta_batch_size,
            setting.networks,
            seed,
            group.rank,
            group.world,
            deepnets() if population.has_deepnets else None,
            group.device,
        )
    if config is not None:
        batches = Planned(batches, config)
    pinned = group.device.type == "cuda"
    return lambda step: meta_batches(batches, step, workers, pin_memory=pinned)


def _at_size(images: ImageTensors | ImageStream, size: int) -> ImageTensors | ImageStream:
    """The training images at another size; a stream crops at that size when it decodes."""
    if isinstance(images, ImageStream):
        return replace(images, image_size=size)
    return resized(images, size)


def resized(images: ImageTensors, size: int) -> ImageTensors:
    """The images at another size: means over areas where it is smaller, bilinear where larger."""
    if images.image_size == size:
        return images
    import torch
    from torch.nn.functional import interpolate

    mode = "area" if size < images.image_size else "bilinear"
    pixels = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
    for start in range(0, len(images), _CHUNK):
        part = images.images[start : start + _CHUNK].float()
        pixels[start : start + _CHUNK] = interpolate(part, size=(size, size), mode=mode).round()
    return replace(images, images=pixels)
