"""Stage images: decodes an image data set once, into a safetensors file of uint8 tensors per split.

A data set that does not fit into memory (`images.stream`) is not decoded here: its training split
is streamed from its files, only the held-out splits become tensors.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from datasets.images import ImageStream, ImageTensors, load, stream
from flows.settings import paths
from flows.settings.images import ImagesConfig
from ghn.files import atomic_path

if TYPE_CHECKING:
    from flows.settings.base import BaseConfig
    from flows.tracking.run import StageRun

SUMMARY_NAME = "about.json"


def run(base: BaseConfig, images: ImagesConfig, stage: StageRun) -> None:
    """Writes data/images/<name>/<split>-<size>px.safetensors and a summary."""
    config = images
    about: dict[str, object] = {"name": config.name, "image_size": config.image_size}
    for split in config.splits():
        decoded = load(
            config.name,
            config.root,
            split,
            config.image_size,
            val_fraction=config.val_fraction,
            test_fraction=config.test_fraction,
            seed=base.seed,
            cache=paths.IMAGES,
        )
        about |= {
            "classes": list(decoded.classes),
            split: {"images": len(decoded), "sha256": decoded.digest},
        }
        stage.log_metrics({f"{split}_images": len(decoded)})
    if config.stream:
        about["train"] = {"images": len(_stream(images, base.seed))}
    with atomic_path(paths.images(config.name) / SUMMARY_NAME) as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n")


def load_split(config: ImagesConfig, split: str) -> ImageTensors:
    """A split (train, val, test) as the stage left it.

    Raises:
        FileNotFoundError: the stage has not run.
        DamagedFileError: the file is damaged.
    """
    return ImageTensors.open(
        paths.images(config.name) / f"{split}-{config.image_size}px.safetensors"
    )


def training_images(config: ImagesConfig, seed: int) -> ImageTensors | ImageStream:
    """The training split, in memory or streamed."""
    return _stream(config, seed) if config.stream else load_split(config, "train")


def _stream(config: ImagesConfig, seed: int) -> ImageStream:
    return stream(
        config.name,
        config.root,
        "train",
        config.image_size,
        val_fraction=config.val_fraction,
        seed=seed,
        workers=config.workers,
    )
