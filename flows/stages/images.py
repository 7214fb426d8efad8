"""Stage images: decodes an image data set once, into a safetensors file of uint8 tensors per split.

A data set that does not fit into memory (`images.stream`) is not decoded here: its training split
is streamed from its files, only the held-out splits become tensors.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from datasets.images import (
    ImageStream,
    ImageTensors,
    MissingImagesError,
    find_source,
    load,
    source_digest,
    stream,
)
from flows.settings import paths
from ghn.errors import DamagedFileError
from ghn.files import atomic_path

if TYPE_CHECKING:
    from flows.params import Params
    from flows.tracking.run import StageRun

SUMMARY_NAME = "about.json"
_RUN_FIRST = "it does not exist; run the images stage first"


class ImagesConfig(BaseModel):
    """Section `images` of params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        default="digits",
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$",
        description=(
            "digits (embedded), or what is below root: <name>-{train,test}.parquet, a directory"
            " <name> with Parquet files or a folder per split and class, or a downloaded"
            " torchvision data set"
        ),
    )
    root: str | None = Field(
        default=None, description="directory of the data; null: GHN_DATA_ROOT or ../shared/data"
    )
    image_size: int = Field(default=32, ge=8, le=1024, description="side in pixels")
    val_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="share of the training images that is held out"
    )
    test_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="test share of a data set stored as one table"
    )
    stream: bool = Field(
        default=False, description="stream the training split (ImageNet) instead of keeping tensors"
    )
    workers: int = Field(
        default=0,
        ge=0,
        description="decoding processes of the stream, per rank; 8 must divide by it",
    )

    def splits(self) -> tuple[str, ...]:
        """The splits that are decoded."""
        return ("val", "test") if self.stream else ("train", "val", "test")


def run(params: Params, stage: StageRun) -> None:
    """Writes data/images/<name>/<split>-<size>px.safetensors and a summary."""
    config = params.images
    source = source_digest(find_source(config.name, config.root))
    about: dict[str, Any] = {
        "name": config.name,
        "image_size": config.image_size,
        "source": source,
    }
    for split in config.splits():
        images = load(
            config.name,
            config.root,
            split,
            config.image_size,
            val_fraction=config.val_fraction,
            test_fraction=config.test_fraction,
            seed=params.base.seed,
            cache=paths.IMAGES,
        )
        about |= {
            "classes": list(images.classes),
            split: {"images": len(images), "sha256": images.digest},
        }
        stage.log_metrics({f"{split}_images": len(images)})
    if config.stream:
        about["train"] = {"images": len(_stream(params))}
    with atomic_path(paths.images(config.name) / SUMMARY_NAME) as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n")


def load_split(params: Params, split: str) -> ImageTensors:
    """A split (train, val, test) as the stage left it.

    Raises:
        FileNotFoundError: the stage has not run.
        DamagedFileError: the file is damaged, or the source changed since the stage ran.
    """
    config = params.images
    path = paths.images(config.name) / f"{split}-{config.image_size}px.safetensors"
    images = ImageTensors.open(path)
    about = _verified_summary(config)
    if about.get(split, {}).get("sha256") != images.digest:
        raise DamagedFileError(
            f"{path} and {SUMMARY_NAME} beside it are of different runs; run the images stage again"
        )
    return images


def training_images(params: Params) -> ImageTensors | ImageStream:
    """The training split, in memory or streamed.

    Raises:
        FileNotFoundError: the stage has not run.
        DamagedFileError: the file is damaged, or the source changed since the stage ran.
    """
    if not params.images.stream:
        return load_split(params, "train")
    _verified_summary(params.images)
    return _stream(params)


def _verified_summary(config: ImagesConfig) -> dict[str, Any]:
    """What the stage wrote about its outputs, if the source, where it is at hand, is still that."""
    path = paths.images(config.name) / SUMMARY_NAME
    try:
        about: dict[str, Any] = dict(json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, _RUN_FIRST, str(path)) from error
    except (ValueError, TypeError) as error:
        raise DamagedFileError(f"{path}: {error}; run the images stage again") from error
    try:
        source = source_digest(find_source(config.name, config.root))
    except MissingImagesError:  # a worker that only pulled the outputs
        return about
    if about.get("source") != source:
        raise DamagedFileError(
            f"{path}: the files of {config.name!r} are not those that the images stage read; run it"
            " again (dvc repro images)"
        )
    return about


def _stream(params: Params) -> ImageStream:
    config = params.images
    return stream(
        config.name,
        config.root,
        "train",
        config.image_size,
        val_fraction=config.val_fraction,
        seed=params.base.seed,
        workers=config.workers,
    )
