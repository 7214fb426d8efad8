"""The images of a trial: which they are, and they themselves, once per process."""

from __future__ import annotations

from functools import lru_cache

from datasets.images import ImageStream, ImageTensors, load, stream
from flows.rows.digest import digest
from flows.settings import paths
from flows.settings.images import ImagesSpec
from ghn.errors import GHNError
from ghn.finetune import stratified_order


@lru_cache(maxsize=4)
def trial_images(spec: ImagesSpec) -> tuple[ImageTensors | ImageStream, ImageTensors, ImageTensors]:
    """Training, validation and test images of `spec`; once per process.

    In a few-shot setting the held-out images for choices are among the few labels (Zhai et al.,
    2019: 800 and 200).
    """

    def read(split: str) -> ImageTensors:
        fractions = {"val_fraction": spec.val_fraction, "test_fraction": spec.test_fraction}
        return load(
            spec.name,
            spec.root,
            split,
            spec.image_size,
            **fractions,
            seed=spec.seed,
            cache=paths.IMAGES,
        )

    def cut(images: ImageTensors, limit: int | None) -> ImageTensors:
        if limit is None or len(images) <= limit:
            return images
        return images.subset(stratified_order(images.labels, spec.seed)[:limit])

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
        return streamed, cut(read("val"), spec.max_val), cut(read("test"), spec.max_test)
    train, val, test = (read(split) for split in ("train", "val", "test"))
    if spec.few_shot is not None:
        few = train.few_shot(spec.few_shot, spec.seed)
        order = stratified_order(few.labels, spec.seed)
        held_out = round(spec.few_shot * spec.few_shot_held_out)
        train, val = few.subset(order[held_out:]), few.subset(order[:held_out])
    return cut(train, spec.max_train), cut(val, spec.max_val), cut(test, spec.max_test)


def data_available(spec: ImagesSpec) -> str | None:
    """None if the images of `spec` can be loaded, else why not."""
    try:
        trial_images(spec)
    except (GHNError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None


@lru_cache(maxsize=64)
def images_digest(spec: ImagesSpec) -> str:
    """Of all images of `spec`."""
    train, *others = trial_images(spec)
    of_train = train.digest if isinstance(train, ImageTensors) else train.table.fingerprint()
    return digest([of_train, *(part.digest for part in others)])
