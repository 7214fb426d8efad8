"""Change any one input of a prediction, a measure or a detector, and its key is another; change
nothing, and it is the same.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datasets.deepnets.generation.config import GenerateConfig
from datasets.deepnets.generation.generate import generate_split
from datasets.detection import DetectionImages
from flows.experiments import detect, measures
from flows.experiments.measurements import Job
from flows.networks import content
from flows.networks.targets import open_split
from flows.rows import engine
from flows.rows.digest import file_digest
from flows.settings import paths
from flows.settings.architectures import ArchitecturesConfig
from flows.settings.base import BaseConfig
from flows.settings.detect import DetectConfig, DetectorConfig
from flows.settings.fanout import FanOut
from flows.settings.images import ImagesConfig
from flows.settings.predict import PredictConfig
from flows.stages import predict
from flows.trials.initialise import hypernetwork
from ghn.checkpoint import save_checkpoint
from ghn.models import GHN, GHNConfig


def new_split(seed: int) -> None:
    rules = {"size": 3, "n_cells": (4, 5), "steps": (1, 2)}
    shutil.rmtree(paths.DEEPNETS, ignore_errors=True)
    config = GenerateConfig(splits={"test": rules})
    generate_split(paths.DEEPNETS, "test", config, seed, map)


def new_weights(seed: int, name: str = "g") -> None:
    torch.manual_seed(seed)
    fields = GHNConfig.variant("ghn3-t", 10).to_dict() | {"layers": 1, "hidden": 16}
    save_checkpoint(GHN(GHNConfig.from_dict(fields)), paths.weights(name))


class StopError(Exception):
    """Ends a stage when its keys are known."""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A tree with a split and a hypernetwork; the keys that are asked for."""
    monkeypatch.chdir(tmp_path)
    new_split(1)
    new_weights(1)
    found: list[str] = []

    def stop(work: engine.Work, *_: object, **__: object) -> list[Any]:
        found.extend(work.key(item) for item in work.items)
        raise StopError

    monkeypatch.setattr(engine.Work, "rows", stop)
    return found


def keys(seen: list[str], call: Callable[[], object]) -> tuple[str, ...]:
    seen.clear()
    with pytest.raises(StopError):
        call()
    return tuple(seen)


def other_code(module: str) -> str:
    return "other"


def test_each_input_of_a_prediction_is_in_its_key(
    seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: dict[str, Any] = {
        "base": BaseConfig(ghn="g", device="cpu"),
        "fanout": FanOut(),
        "images": ImagesConfig(name="digits", image_size=16),
        "architectures": ArchitecturesConfig(splits=("test",), torchvision=("resnet18",)),
        "predict": PredictConfig(),
        "stage": SimpleNamespace(),
    }

    def found(**changes: Any) -> tuple[str, ...]:
        return keys(seen, lambda: predict.run(**{**fields, **changes}))

    before = found()
    assert len(set(before)) == 4
    assert found() == found(fanout=FanOut(threads=2)) == before
    one = fields["architectures"].model_copy(update={"per_split": 1})
    assert set(found(architectures=one)) < set(before)  # fewer rows, not other ones
    for changes in (
        {"images": fields["images"].model_copy(update={"image_size": 32})},
        {"base": fields["base"].model_copy(update={"seed": 9})},
        {"predict": PredictConfig(save=True)},
    ):
        assert not set(found(**changes)) & set(before), changes
    new_split(2)
    assert not set(found()[:3]) & set(before)
    assert found()[3] == before[3]  # of torchvision
    new_split(1)
    assert found() == before
    new_weights(2)
    assert not set(found()) & set(before)
    new_weights(1)
    assert found() == before
    with monkeypatch.context() as patch:
        patch.setattr(predict, "code_digest", other_code)
        assert not set(found()) & set(before)
    with monkeypatch.context() as patch:
        patch.setattr(content, "version", other_code)
        assert found()[:3] == before[:3]
        assert found()[3] != before[3]


def test_each_input_of_a_measure_is_in_its_key(
    seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"name": "digits", "image_size": 8, "max_train": 64, "max_val": 32, "max_test": 32}
    settings = {"images": 4, "num_classes": 10, "image_size": 8, "chunk": 2, "images_spec": spec}
    job = Job(
        measure="gradients", architecture="deepnets1m/test/0", init="g", seed=1, settings=settings
    )

    def found(job: Job) -> tuple[str, ...]:
        return keys(seen, lambda: measures.measure([job], FanOut(), "t"))

    before = found(job)
    assert found(job.model_copy()) == before
    changed: list[dict[str, Any]] = [
        {"measure": "activations"},
        {"architecture": "deepnets1m/test/1"},
        {"architecture": "resnet18"},
        {"init": "randinit"},
        {"seed": 2},
        {"settings": settings | {"images": 5}},
        {"settings": settings | {"image_size": 16}},
        {"settings": settings | {"images_spec": spec | {"max_test": 30}}},
        {"settings": settings | {"images_spec": spec | {"seed": 3}}},
    ]
    others = [found(job.model_copy(update=change)) for change in changed]
    assert len({before, *others}) == len(changed) + 1
    new_split(2)
    assert found(job) != before
    new_split(1)
    new_weights(2)
    assert found(job) != before
    new_weights(1)
    assert found(job) == before
    monkeypatch.setattr(measures, "code_digest", other_code)
    assert found(job) != before


def test_each_input_of_a_detector_is_in_its_key(
    seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = torch.full((3, 64, 80), 90, dtype=torch.uint8)
    box = torch.tensor([[5.0, 5, 25, 35]])
    images = DetectionImages([picture] * 4, [box] * 4, list("abcd"))
    monkeypatch.setattr(detect, "load_pennfudan", lambda: images)
    config = DetectConfig(backbones=("resnet50",), inits=("ghn", "randinit"), seeds=1, n_test=1)

    def found(ghn: str = "g", seed: int = 1, **changes: Any) -> tuple[str, ...]:
        changed = config.model_copy(update=changes)
        return keys(seen, lambda: detect.detect(changed, ghn, seed, "cpu", FanOut()))

    before = found()
    assert len(set(before)) == 2
    assert found() == before
    assert set(found(seeds=2)) > set(before)  # more rows, not other ones
    for changes in (
        {"seed": 2},
        {"n_test": 2},
        {"beta": 1e-3},
        {"detector": DetectorConfig(epochs=3)},
        {"backbones": ("resnet101",)},
    ):
        assert not set(found(**changes)) & set(before), changes
    new_weights(2)
    assert found()[0] != before[0]
    assert found()[1] == before[1]  # random parameters
    new_weights(1)
    assert found() == before
    for other in (
        replace(images, images=[picture + 1, *images.images[1:]]),
        replace(images, boxes=[box + 1, *images.boxes[1:]]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(detect, "load_pennfudan", lambda other=other: other)
            assert not set(found()) & set(before)
    assert found() == before
    monkeypatch.setattr(detect, "code_digest", other_code)
    assert not set(found()) & set(before)


def test_a_file_of_the_same_size_and_time_is_read_again(tmp_path: Path) -> None:
    """Also through a link, and however soon after the file was read."""
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"first")
    link.symlink_to(path)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    for content_ in (b"other", b"third", b"first"):
        before = file_digest(link)
        path.write_bytes(content_)
        os.utime(path, ns=times)
        assert file_digest(link) == file_digest(path) != before


def test_weights_and_splits_are_opened_again_when_their_files_changed(seen: list[str]) -> None:
    bias = [hypernetwork("models/g").tensors.classes.weight.sum().item()]
    codes = [open_split(paths.DEEPNETS, "test").code.tobytes()]
    new_weights(2)
    new_split(2)
    bias.append(hypernetwork("models/g").tensors.classes.weight.sum().item())  # a directory
    codes.append(open_split(paths.DEEPNETS, "test").code.tobytes())
    assert bias[0] != bias[1]
    assert codes[0] != codes[1]
