from collections.abc import Sequence
from itertools import islice

import torch
from train_setting import meta_batches

from datasets.images import ImageTensors
from ghn.train import TrainConfig
from ghn.train.data import Phase, StepData, step_data

CPU = torch.device("cpu")


def _steps(digits: ImageTensors, *, augment: bool, start: int = 0) -> Sequence[StepData]:
    """Four steps: two of a phase of 16 images, two of the last phase of 32."""
    config = TrainConfig(steps=4, warmup_steps=0, augment=augment, seed=5)
    phases = [
        Phase(2, meta_batches(1), digits, batch_size=size, meta_batch_size=1) for size in (16, 32)
    ]
    return list(islice(step_data(start, phases, config, CPU), 4 - start))


def test_images_are_augmented_only_where_that_is_asked_for(digits: ImageTensors) -> None:
    plain, augmented = (_steps(digits, augment=augment) for augment in (False, True))
    stored = {
        image.numpy().tobytes(): int(label)
        for images, labels in digits.batches(64)
        for image, label in zip(images, labels, strict=True)
    }
    for step in plain:
        for image, label in zip(step.images_BCHW, step.labels_B, strict=True):
            assert stored[image.numpy().tobytes()] == int(label)
    for step, other in zip(plain, augmented, strict=True):
        assert torch.equal(step.labels_B, other.labels_B), "the order is another"
        assert not torch.equal(step.images_BCHW, other.images_BCHW)


def test_batches_are_a_function_of_the_step(digits: ImageTensors) -> None:
    whole = _steps(digits, augment=True)
    for start in (1, 2, 3):
        for step, again in zip(
            whole[start:], _steps(digits, augment=True, start=start), strict=True
        ):
            assert torch.equal(step.images_BCHW, again.images_BCHW)
            assert torch.equal(step.labels_B, again.labels_B)
