"""What is measured of networks at their initialisation: the jobs of an entry, and their columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from flows.experiments.catalogue import (
    ActivationsEntry,
    DiversityEntry,
    GradientsEntry,
    NasEntry,
    Profile,
    SpeedEntry,
)
from flows.settings.inits import BASELINES
from ghn.analysis import (
    PAPER_SHAPES,
    SCORES,
)


class Job(BaseModel):
    """One measurement: of an architecture, or for diversity of a shape over many, from one
    initialisation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    measure: str
    architecture: str
    init: str
    seed: int
    settings: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.measure} of {self.architecture} from {self.init}, seed {self.seed}"

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


def jobs(
    entry: DiversityEntry | ActivationsEntry | GradientsEntry | NasEntry | SpeedEntry,
    profile: Profile,
    truth: Sequence[str] = (),
    device: str = "cpu",
) -> list[Job]:
    """The measurements of an entry.

    Args:
        truth: of a NasEntry: the architectures.
        device: of a SpeedEntry: where it trains; all else is measured on the CPU.
    """
    seed, classes, images = profile.seed, profile.num_classes, profile.images
    spec = images.model_dump(mode="json")
    common = {"num_classes": classes, "image_size": images.image_size, "images_spec": spec}

    def job(architecture: str, init: str, seed: int, **settings: object) -> Job:
        return Job(
            measure=entry.kind,
            architecture=architecture,
            init=init,
            seed=seed,
            settings={**common, **settings},
        )

    match entry:
        case DiversityEntry():
            from ghn.architectures import TORCHVISION_74

            names = list(TORCHVISION_74) if entry.names == "all" else list(entry.names)
            options = {"names": names, "image_size": entry.image_size, "images_spec": None}
            limits = {"max_tensors": entry.max_tensors, "max_matched": entry.max_matched}
            return [
                job(
                    "torchvision",
                    init,
                    seed,
                    **options,
                    **limits,
                    shape=list(shape),
                    matched=matched,
                )
                for shape in PAPER_SHAPES
                for init in entry.inits
                for matched in ((False, True) if init in BASELINES else (False,))
            ]
        case ActivationsEntry():
            return [
                job(name, init, seed + i, images=entry.images)
                for name in entry.names
                for init in entry.inits
                for i in range(entry.seeds if init in BASELINES else 1)
            ]
        case GradientsEntry():
            options = {"images": entry.images, "image_size": entry.image_size, "chunk": entry.chunk}
            return [
                job(name, init, seed + i, **options)
                for name in entry.names
                for init in entry.inits
                for i in range(entry.seeds)
            ]
        case SpeedEntry():
            return [
                job(
                    f"deepnets1m/{(train := profile.variant_config(changes)).split}/0",
                    name,
                    seed,
                    train=train.model_dump(mode="json"),
                    steps=entry.steps,
                    device=device,
                )
                for name, changes in entry.variants.items()
            ]
        case NasEntry():
            scores = [
                job(name, "randinit", seed + i, images=entry.batch_size)
                for name in truth
                for i in range(entry.seeds)
            ]
            return scores + [
                job(name, ghn, seed, images=entry.images) for name in truth for ghn in entry.ghns
            ]


COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "diversity": {
        "shape": pa.string(),
        "matched": pa.bool_(),  # channels brought into the same order by the Hungarian method
        "tensors": pa.int64(),
        "distance": pa.float64(),  # null where fewer than two tensors have the shape
    },
    "activations": {
        "layers": pa.list_(pa.string()),
        "variance": pa.list_(pa.float64()),
        "images": pa.int64(),
    },
    "gradients": {
        "gradient_norm": pa.float64(),  # null where it overflows
        "parameters": pa.int64(),
        "images": pa.int64(),
    },
    "speed": {
        "parameters": pa.int64(),
        "meta_batch_size": pa.int64(),
        "batch_size": pa.int64(),
        "steps": pa.int64(),
    },
    "nas": (
        {name: pa.float64() for name in SCORES} | {"accuracy": pa.float64(), "images": pa.int64()}
    ),
}
