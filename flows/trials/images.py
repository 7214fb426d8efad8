"""The images of a trial: which they are, and they themselves, once per process."""

from __future__ import annotations

from functools import lru_cache

from datasets.images import (
    ImageStream,
    ImageTensors,
    MissingImagesError,
    find_source,
    load,
    source_digest,
    stream,
)
from flows.rows.digest import digest
from flows.settings import paths
from flows.settings.images import ImagesSpec, count_held_out
from ghn.errors import ConfigError
from ghn.finetune import stratified_order


def trial_images(spec: ImagesSpec) -> tuple[ImageTensors | ImageStream, ImageTensors, ImageTensors]:
    """Training, validation and test images of `spec`; read once per process and content.

    In a few-shot setting the held-out images for choices are among the few labels (Zhai et al.,
    2019: 800 and 200).
    """
    return _images_of(spec, _content(spec))


def _content(spec: ImagesSpec) -> str | None:
    """The digest of the source; nothing where only what was decoded from it is at hand."""
    try:
        return source_digest(find_source(spec.name, spec.root))
    except MissingImagesError:
        return None


@lru_cache(maxsize=4)
def _images_of(
    spec: ImagesSpec, _content: str | None
) -> tuple[ImageTensors | ImageStream, ImageTensors, ImageTensors]:
    def cut(images: ImageTensors, limit: int | None) -> ImageTensors:
        if limit is None or len(images) <= limit:
            return images
        return images.subset(stratified_order(images.labels, spec.seed)[:limit])

    val, test = _read(spec, "val"), _read(spec, "test")
    if spec.stream:
        streamed = stream(
            spec.name,
            spec.root,
            "train",
            spec.image_size,
            val_fraction=spec.val_fraction,
            seed=spec.seed,
            workers=spec.workers,
        )
        return streamed, cut(val, spec.max_val), cut(test, spec.max_test)
    train = _read(spec, "train")
    if spec.few_shot is not None:
        try:
            few = train.few_shot(spec.few_shot, spec.seed)
        except ConfigError as error:
            raise ConfigError(
                f"few_shot = {spec.few_shot} (transfer.labels, in section transfer): {error}; ask"
                " for fewer"
            ) from error
        order = stratified_order(few.labels, spec.seed)
        n_val = count_held_out(spec.few_shot, spec.few_shot_held_out)
        train, val = few.subset(order[n_val:]), few.subset(order[:n_val])
    return cut(train, spec.max_train), cut(val, spec.max_val), cut(test, spec.max_test)


def _read(spec: ImagesSpec, split: str) -> ImageTensors:
    """A split as the stage images left it, if that is what `spec` wants; else decoded and kept in a
    place of its own, since the stage's files are outputs that DVC looks after.
    """
    fractions = {"val_fraction": spec.val_fraction, "test_fraction": spec.test_fraction}
    return load(
        spec.name,
        spec.root,
        split,
        spec.image_size,
        **fractions,
        seed=spec.seed,
        prepared=paths.IMAGES,
        cache=paths.decoded(**fractions, seed=spec.seed),
    )


def data_available(spec: ImagesSpec) -> str | None:
    """None if the images of `spec` are there, else why not.

    Raises:
        GHNError, OSError: they are there and cannot be read, or not be kept decoded. That is no
            result: it would stay one, since nothing that DVC looks at changes when it is mended.
    """
    try:
        trial_images(spec)
    except MissingImagesError as error:
        return f"{type(error).__name__}: {error}"
    return None


def images_digest(spec: ImagesSpec) -> str:
    """The digest of all images of `spec`."""
    return _digest_of(spec, _content(spec))


@lru_cache(maxsize=64)
def _digest_of(spec: ImagesSpec, content: str | None) -> str:
    return digest([part.digest for part in _images_of(spec, content)])
