"""Stage images: decodes an image data set once, into a safetensors file of uint8 tensors per split.

A data set that does not fit into memory (`images.stream`) is not decoded here: its training split
is streamed from its files, only the held-out splits become tensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from datasets.images import (
    ImageStream,
    ImageTensors,
    MissingImagesError,
    find_source,
    is_current,
    load,
    recipe,
    source_digest,
    split_file,
    stream,
)
from flows.settings import paths
from flows.trials.images import own_cache
from ghn.errors import DamagedFileError
from ghn.files import atomic_path

if TYPE_CHECKING:
    from flows.params import Params
    from flows.tracking.run import StageRun

SUMMARY_NAME = "about.json"
_RUN_AGAIN = "run the images stage again (dvc repro images)"


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
        "recipe": recipe(
            config.image_size, config.val_fraction, config.test_fraction, params.base.seed
        ),
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
            split: _measure(images),
        }
        stage.log_metrics({f"{split}_images": len(images)})
    if config.stream:
        about["train"] = {"images": len(_stream(config, params.base.seed))}
    with atomic_path(paths.images(config.name) / SUMMARY_NAME) as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n")


def load_split(params: Params, split: str) -> ImageTensors:
    """A split (train, val, test) as the stage left it, or as trials decoded it with just these
    parameters.

    Raises:
        FileNotFoundError: the stage has not run.
        DamagedFileError: the file is damaged, or the source or the parameters changed since the
            stage ran.
    """
    config, seed = params.images, params.base.seed
    path = _find(config, seed, split)
    images = ImageTensors.open(path)
    summary = path.with_name(SUMMARY_NAME)
    if path.is_relative_to(paths.IMAGES) and _read_summary(summary).get(split) != _measure(images):
        raise DamagedFileError(f"{path} and {summary} are of different runs; {_RUN_AGAIN}")
    return images


def training_images(params: Params) -> ImageTensors | ImageStream:
    """The training split, in memory or streamed.

    Raises:
        GHNError, FileNotFoundError: as `load_split`.
    """
    if not params.images.stream:
        return load_split(params, "train")
    _find(params.images, params.base.seed, "val")
    return _stream(params.images, params.base.seed)


def _find(config: ImagesConfig, seed: int, split: str) -> Path:
    """The file of a split that is of the parameters and, where it is at hand, of the source."""
    file = split_file(config.name, split, config.image_size)
    fractions = config.val_fraction, config.test_fraction
    key = {"recipe": recipe(config.image_size, *fractions, seed)}
    try:
        source = {"source": source_digest(find_source(config.name, config.root))}
    except MissingImagesError:  # a worker that only pulled the outputs
        source = {}
    of_trials = own_cache(config.root, *fractions, seed) / file
    if not is_current(paths.IMAGES / file, key) and is_current(of_trials, key | source):
        return of_trials
    path = paths.images(config.name) / SUMMARY_NAME
    about = _read_summary(path)
    if about.get("recipe") != key["recipe"]:
        raise DamagedFileError(
            f"{path}: the images stage ran with other parameters (size, fractions or seed);"
            f" {_RUN_AGAIN}"
        )
    if about | source != about:
        raise DamagedFileError(
            f"{path}: the files of {config.name!r} are not those that the images stage read;"
            f" {_RUN_AGAIN}"
        )
    return paths.IMAGES / file


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        reason = "it does not exist; run the images stage first"
        raise FileNotFoundError(error.errno, reason, str(path)) from error
    except (ValueError, TypeError) as error:
        raise DamagedFileError(f"{path}: {error}; {_RUN_AGAIN}") from error


def _measure(images: ImageTensors) -> dict[str, Any]:
    return {"images": len(images), "sha256": images.digest}


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
