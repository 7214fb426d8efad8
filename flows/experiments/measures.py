"""Measurements of networks at their initialisation (tables 9, 13, 19; figs. 6, bottom, and 9).

Each measure is a list of jobs and a function from a job to a row; jobs run in workers and finished
rows are cached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.deepnets import MetaBatches, Split
from datasets.images import ImageTensors
from flows.experiments.measurements import Job
from flows.networks.build import build_network
from flows.networks.content import architecture_content
from flows.networks.score import score
from flows.networks.targets import open_split, split_of
from flows.rows.cache import RowCache
from flows.rows.code import code_digest
from flows.rows.digest import digest
from flows.rows.engine import Work
from flows.rows.schema import Row, finite, identity
from flows.settings import paths
from flows.settings.fanout import FanOut
from flows.settings.images import ImagesSpec
from flows.settings.inits import BASELINES
from flows.settings.train import TrainStageConfig
from flows.training.start import new_hypernetwork
from flows.trials.images import images_digest, trial_images
from flows.trials.initialise import (
    forget_hypernetworks,
    hypernetwork,
    initialise,
)
from flows.trials.inits import is_hypernetwork, source
from flows.trials.weights import check_weights, weights_content
from ghn.analysis import (
    SCORES,
    activation_variances,
    gradient_norm,
    mean_cosine_distance,
)
from ghn.baselines import GradInitConfig, MetaInitConfig, NIOConfig
from ghn.images import endless_batches
from ghn.predict import batch_statistics
from ghn.randomness import seeded
from ghn.train import Ranks
from ghn.train.data import StepData, on_device
from ghn.train.update import Updates


def measure(jobs: Sequence[Job], fanout: FanOut, title: str) -> list[Row]:
    """A row per job, in their order; a job that fails has a row with its error."""
    forget_hypernetworks()
    weights = {job.init: weights_content(job.init) for job in jobs if job.measure != "speed"}
    code = code_digest("flows.experiments.measures")

    def data(job: Job) -> str:
        if job.measure == "speed":
            return digest(_train_split(job).content, images_digest(_spec(job)))
        images = job.settings.get("images_spec")
        names = job.settings.get("names", [job.architecture])
        contents = [architecture_content(name) for name in names]
        of_images = images_digest(ImagesSpec(**images)) if images else ""
        return digest(weights[job.init], contents, of_images)

    def head(job: Job) -> Row:
        split = "" if job.measure == "diversity" else split_of(job.architecture)
        return identity(job.architecture, split, job.init, job.seed, data(job))

    work = Work(
        title=title,
        items=jobs,
        measure=_Measure(weights),
        key=lambda job: digest(job.model_dump(mode="json"), data(job), code),
        head=head,
    )
    with RowCache(paths.CACHE / "measures.jsonl") as cache:
        return work.rows(cache, fanout)


@dataclass(frozen=True)
class _Measure:
    """Carries out a job; travels to the workers.

    Attributes:
        weights: content of the hypernetworks by initialisation.
    """

    weights: Mapping[str, str]

    def __call__(self, job: Job) -> Row:
        if job.init in self.weights:
            check_weights(job.init, self.weights[job.init])
        return _MEASURES[job.measure](job)


def _diversity(job: Job) -> Row:
    shape = tuple(job.settings["shape"])
    tensors = [tensor for name in job.settings["names"] for tensor in _tensors_of(name, shape, job)]
    limit = job.settings["max_matched"] if job.settings["matched"] else job.settings["max_tensors"]
    chosen = np.random.default_rng(job.seed).permutation(len(tensors))[:limit]
    tensors = [tensors[i] for i in sorted(chosen.tolist())]
    return {
        "shape": "x".join(map(str, shape)),
        "matched": job.settings["matched"],
        "tensors": len(tensors),
        "distance": (
            mean_cosine_distance(tensors, match=job.settings["matched"])
            if len(tensors) > 1
            else None
        ),
    }


def _tensors_of(name: str, shape: tuple[int, ...], job: Job) -> list[Tensor]:
    """Parameters of this shape of one network, linear weights among them; one without any is not
    initialised.
    """
    from ghn.architectures import build

    classes, size, wanted = job.settings["num_classes"], job.settings["image_size"], _padded(shape)
    model = build(name, classes, size, device="meta")
    names = [
        key for key, parameter in model.named_parameters() if _padded(parameter.shape) == wanted
    ]
    if not names:
        return []
    state: Mapping[str, Tensor]
    if is_hypernetwork(job.init):
        with torch.no_grad():
            state = hypernetwork(source(job.init)).predict(model)
    else:
        with seeded(job.seed):
            state = build(name, classes, size).state_dict()
    return [state[key].reshape(wanted).clone() for key in names if key in state]


def _padded(shape: Sequence[int]) -> tuple[int, ...]:
    """A linear weight counts as a 1 x 1 convolution."""
    return tuple(shape) + (1,) * (4 - len(shape)) if len(shape) >= 2 else tuple(shape)


def _activations(job: Job) -> Row:
    model, spec = _initialised(job)
    images = _test_images(spec, job)
    x_BCHW, _ = next(iter(images.batches(len(images), shuffle=False)))
    with batch_statistics(model):
        variances = activation_variances(model, x_BCHW)
    return {
        "layers": list(variances),
        "variance": [finite(value) for value in variances.values()],
        "images": len(x_BCHW),
    }


def _gradients(job: Job) -> Row:
    model, spec = _initialised(job)
    images = _test_images(spec, job)
    x_BCHW, y_B = next(iter(images.batches(len(images), shuffle=False)))
    size = job.settings["image_size"]
    if x_BCHW.shape[-1] != size:
        x_BCHW = nn.functional.interpolate(
            x_BCHW, size=(size, size), mode="bilinear", antialias=True
        )
    return {
        "gradient_norm": finite(gradient_norm(model, x_BCHW, y_B, chunk=job.settings["chunk"])),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "init_seconds": model.init_seconds,
        "images": len(y_B),
    }


def _nas(job: Job) -> Row:
    """The scores of a random network, or the accuracy of a predicted one as the stage evaluate
    measures it.
    """
    model, spec = _initialised(job)
    if is_hypernetwork(job.init):
        images = _test_images(spec, job)
        return {
            "accuracy": score(model, list(images.batches(64, shuffle=False))).accuracy,
            "images": len(images),
        }
    train = trial_images(spec)[0]
    x_BCHW, y_B = next(iter(train.batches(job.settings["images"], job.seed)))
    scores: Row = {"images": len(y_B)}
    for name, measured in SCORES.items():
        try:
            scores[name] = finite(measured(model, x_BCHW, y_B))
        # no second derivative, a shape that the score does not know
        except (RuntimeError, ValueError):
            scores[name] = None
    return scores


def _test_images(spec: ImagesSpec, job: Job) -> ImageTensors:
    """The first test images, so many as the job says or all that there are."""
    test = trial_images(spec)[2]
    return test.subset(range(min(job.settings["images"], len(test))))


def _initialised(job: Job) -> tuple[Any, ImagesSpec]:
    spec = ImagesSpec(**job.settings["images_spec"])
    classes, size = job.settings["num_classes"], job.settings["image_size"]
    with seeded(job.seed):
        model, graph = build_network(job.architecture, classes, size, scalars=job.init == "fixup")
    seconds = initialise(
        model,
        graph,
        job.init,
        seed=job.seed,
        train=trial_images(spec)[0] if job.init in BASELINES else None,
        image_shape=(3, size, size),
        num_classes=classes,
        beta=0.0,
        gradinit_config=GradInitConfig(),
        metainit_config=MetaInitConfig(),
        nio_config=NIOConfig(),
    )
    model.init_seconds = seconds  # type: ignore[assignment]
    return model, spec


def _speed(job: Job) -> Row:
    """How fast training steps of a fresh hypernetwork are: prediction, networks, update, with the
    clipping and the warm-up of training. Without them the first updates can leave numbers so small
    that a CPU takes several times as long over them.

    Graphs and networks are made before the clock starts, as loaders make them ahead.
    """
    config, device = TrainStageConfig(**job.settings["train"]), torch.device(job.settings["device"])
    images = trial_images(_spec(job))[0]
    ghn = new_hypernetwork(config.hypernetwork(images.num_classes), job.seed, config.output_gain)
    updates = Updates(ghn.to(device), config.recipe_with(job.seed), Ranks(device=device))
    sizes = (config.meta_batch_size, images.num_classes, images.image_size)
    batches = MetaBatches(_train_split(job), *sizes, job.seed, config=config.networks)
    steps = job.settings["steps"] + 1  # the first warms up
    seconds = []
    for step, (x_BCHW, y_B) in enumerate(
        islice(endless_batches(images, config.batch_size, job.seed, device=device), steps)
    ):
        data = StepData(x_BCHW, y_B, on_device(batches[step], device))
        started = _clock(device)
        updates.take(step, data)
        seconds.append(_clock(device) - started)
    return {
        "parameters": sum(parameter.numel() for parameter in ghn.parameters()),
        "meta_batch_size": config.meta_batch_size,
        "batch_size": config.batch_size,
        "steps": job.settings["steps"],
        "steps_per_second": job.settings["steps"] / sum(seconds[1:]),
    }


def _clock(device: torch.device) -> float:
    """Seconds: of the wall, once a GPU has done what it was given; of the processor where one
    thread does everything, so that other programs do not count.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def _train_split(job: Job) -> Split:
    return open_split(paths.DEEPNETS, job.settings["train"]["split"])


def _spec(job: Job) -> ImagesSpec:
    return ImagesSpec(**job.settings["images_spec"])


_MEASURES: dict[str, Callable[[Job], Row]] = {
    "diversity": _diversity,
    "activations": _activations,
    "gradients": _gradients,
    "nas": _nas,
    "speed": _speed,
}
