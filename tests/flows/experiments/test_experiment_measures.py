import time

import pytest
import torch
from torch import nn

from flows.compute.fanout import FanOut
from flows.experiments import measures
from flows.experiments.catalogue import load_profile
from flows.experiments.measurements import Job, jobs
from flows.experiments.measures import measure
from flows.settings.images import ImagesSpec


def test_diversity_compares_linear_weights_with_pointwise_convolutions(monkeypatch, tmp_path):
    def build(name, classes, image_size, *, device="cpu"):
        bias = {"bias": False, "device": device}
        return nn.Sequential(nn.Conv2d(8, 8, 1, **bias), nn.Flatten(), nn.Linear(8, 8, **bias))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ghn.architectures.build", build)
    settings = {
        "names": ["a", "b"],
        "shape": [8, 8, 1, 1],
        "num_classes": 10,
        "image_size": 32,
        "images_spec": None,
    }
    settings |= {"max_tensors": 10, "max_matched": 10}
    todo = [
        Job(
            measure="diversity",
            architecture="two",
            init="randinit",
            seed=1,
            settings={**settings, "matched": matched},
        )
        for matched in (False, True)
    ]
    plain, matched = measure(todo, FanOut(workers=1), "diversity")
    assert (plain["error"], plain["tensors"], plain["shape"]) == (None, 4, "8x8x1x1")
    # a and b have the same seed here, so two of the six pairs are of equal tensors; matching makes
    # others closer
    assert 0 < plain["distance"] < 1
    assert matched["distance"] <= plain["distance"] + 1e-6


@pytest.mark.parametrize(
    ("shape", "padded"), [((8, 4), (8, 4, 1, 1)), ((8, 4, 3, 3), (8, 4, 3, 3)), ((8,), (8,))]
)
def test_a_linear_weight_counts_as_a_convolution(shape, padded):
    assert measures._padded(shape) == padded


def test_other_programs_time_does_not_count_in_a_step(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    started = measures._clock(torch.device("cpu"))
    time.sleep(0.2)
    assert measures._clock(torch.device("cpu")) - started < 0.1


def test_steps_are_timed_where_networks_train():
    entry = load_profile("laptop").experiments["figure3"]
    found = jobs(entry, load_profile("laptop"), device="cuda")
    assert {job.settings["device"] for job in found} == {"cuda"}
    assert {job.init for job in found} == set(entry.variants)


@pytest.mark.parametrize("kind", ["activations", "gradients"])
def test_where_there_are_fewer_test_images_all_are_taken(monkeypatch, tmp_path, kind):
    monkeypatch.chdir(tmp_path)
    spec = ImagesSpec(name="digits", image_size=16, max_train=16, max_val=16, max_test=5)
    settings = {"images": 64, "chunk": 4, "num_classes": 10, "image_size": 16}
    job = Job(
        measure=kind,
        architecture="squeezenet1_1",
        init="randinit",
        seed=1,
        settings=settings | {"images_spec": spec.model_dump(mode="json")},
    )
    (row,) = measure([job], FanOut(workers=1), kind)
    assert (row["error"], row["images"]) == (None, 5)
