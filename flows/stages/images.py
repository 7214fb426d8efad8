"""Stage images: decodes an image data set once, into a safetensors file of uint8 tensors per split.

A data set that does not fit into memory (`images.stream`) is not decoded here: its training split
is streamed from its files, only the held-out splits become tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

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
from flows.settings.images import ImagesConfig
from ghn.errors import ConfigError, DamagedFileError
from ghn.files import atomic_path

if TYPE_CHECKING:
    from flows.settings.base import BaseConfig
    from flows.tracking.run import StageRun

F = TypeVar("F", bound=Callable[..., Any])

SUMMARY_NAME = "about.json"
_RUN_AGAIN = "run the images stage again (dvc repro images)"


def _of_params(sections: Callable[[Any], tuple[Any, ...]]) -> Callable[[F], F]:
    """Lets programs outside of this repository go on calling a function with the whole parameters
    in place of the sections that it takes. Nothing in here does.
    """

    def decorate(function: F) -> F:
        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            if args and hasattr(args[0], "images"):
                args = (*sections(args[0]), *args[1:])
            return function(*args, **options)

        return cast("F", call)

    return decorate


@_of_params(lambda params: (params.base, params.images))
def run(base: BaseConfig, images: ImagesConfig, stage: StageRun) -> None:
    """Writes data/images/<name>/<split>-<size>px.safetensors and a summary.

    What is there already and of this source stays; without the source all of it must be.
    """
    fractions = images.val_fraction, images.test_fraction
    directory = paths.images(images.name)
    about: dict[str, Any] = {
        "name": images.name,
        "image_size": images.image_size,
        "recipe": recipe(images.image_size, *fractions, base.seed),
    }
    try:
        about["source"] = source_digest(find_source(images.name, images.root))
    except MissingImagesError:
        if not (directory / SUMMARY_NAME).exists():
            raise
        for split in images.splits():
            load_split(images, base.seed, split)
        return
    for split in images.splits():
        decoded = load(
            images.name,
            images.root,
            split,
            images.image_size,
            val_fraction=images.val_fraction,
            test_fraction=images.test_fraction,
            seed=base.seed,
            cache=paths.IMAGES,
        )
        if len(decoded) < 2:  # batch norm has no statistics of one image
            raise ConfigError(
                f"split {split} of {images.name} has a single image, and two are the least: give"
                f" more images, or images.{'test' if split == 'test' else 'val'}_fraction another"
                " share"
            )
        about |= {"classes": list(decoded.classes), split: _measure(decoded)}
        stage.log_metrics({f"{split}_images": len(decoded)})
    if images.stream:
        about["train"] = {"images": len(_stream(images, base.seed))}
    with atomic_path(directory / SUMMARY_NAME) as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n")
    written = {split_file(images.name, split, images.image_size).name for split in images.splits()}
    for path in directory.iterdir():
        if path.is_file() and path.name not in written | {SUMMARY_NAME}:
            path.unlink()  # of other parameters


@_of_params(lambda params: (params.images, params.base.seed))
def load_split(config: ImagesConfig, seed: int, split: str) -> ImageTensors:
    """A split (train, val, test) as the stage left it, or as trials decoded it with just these
    parameters.

    Raises:
        FileNotFoundError: the stage has not run.
        DamagedFileError: the file is damaged, or the source or the parameters changed since the
            stage ran.
    """
    path = _find(config, seed, split)
    images = ImageTensors.open(path)
    summary = path.with_name(SUMMARY_NAME)
    if path.is_relative_to(paths.IMAGES) and _read_summary(summary).get(split) != _measure(images):
        raise DamagedFileError(f"{path} and {summary} are of different runs; {_RUN_AGAIN}")
    return images


def training_images(config: ImagesConfig, seed: int) -> ImageTensors | ImageStream:
    """The training split, in memory or streamed.

    Raises:
        GHNError, FileNotFoundError: as `load_split`.
    """
    if not config.stream:
        return load_split(config, seed, "train")
    _find(config, seed, "val")
    return _stream(config, seed)


def _find(config: ImagesConfig, seed: int, split: str) -> Path:
    """The file of a split that is of the parameters and, where it is at hand, of the source."""
    file = split_file(config.name, split, config.image_size)
    fractions = config.val_fraction, config.test_fraction
    key = {"recipe": recipe(config.image_size, *fractions, seed)}
    try:
        source = {"source": source_digest(find_source(config.name, config.root))}
    except MissingImagesError:  # a worker that only pulled the outputs
        source = {}
    of_trials = paths.decoded(*fractions, seed) / file
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
