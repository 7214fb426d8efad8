"""What the jobs of a profile cost: a dry run that lists every job with its estimated GPU hours.

A training step costs three forward passes (one forward, two backward) of two operations per
multiply-accumulate. The rate of a GPU is taken from the paper itself: ResNet-50 trains for 90
epochs in 0.4 days on four A100 (section 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flows.experiments.catalogue import (
    ActivationsEntry,
    DetectEntry,
    DiversityEntry,
    Entry,
    GeneralisationEntry,
    GradientsEntry,
    NasEntry,
    Profile,
    SpeedEntry,
)
from flows.networks.build import forward_gmacs
from flows.settings.inits import SELECTION
from flows.settings.trials import Grid, Part, Selection, TrialsEntry
from flows.words import counted

IMAGENET_IMAGES = 1_281_167
RESNET50_GMACS = 4.09
A100_FLOPS = 2 * 3 * RESNET50_GMACS * 1e9 * IMAGENET_IMAGES * 90 / (0.4 * 4 * 86400)
"""Operations per second of one A100 in practice: 2.0e13."""

DEEPNETS_GMACS = {"test": 0.5, "wide": 1.9, "deep": 0.9, "dense": 0.9, "bnfree": 0.4, "search": 0.5}
"""Mean cost of a network of DeepNets-1M at 224 pixels, for splits that are not generated when the
plan is made.
"""

PREDICTION_HOURS = 2 / 3600
"""Building a network, predicting its parameters and putting it on a device."""


@dataclass(frozen=True)
class PlannedJob:
    """One unit of work that would run."""

    experiment: str
    job: str
    gpu_hours: float


def plan(profile: Profile) -> Iterator[PlannedJob]:
    """Every job of a profile, hypernetworks first; nothing is run, no file is needed."""
    for name, hypernetwork in profile.hypernetworks.items():
        if hypernetwork.released is None:
            hours = (
                24 * hypernetwork.gpu_days
                if hypernetwork.gpu_days is not None
                else _ghn_hours(profile, name)
            )
            yield PlannedJob("hypernetworks", f"train {name}", hours)
    for name, entry in profile.experiments.items():
        for job, hours in _jobs(profile, entry):
            yield PlannedJob(name, job, hours)


def _jobs(profile: Profile, entry: Entry) -> Iterator[tuple[str, float]]:
    match entry:
        case TrialsEntry():
            for part in entry.parts:
                for architecture, gmacs in _networks(profile, entry.select, part):
                    for init in entry.inits:
                        for seed in range(entry.seeds):
                            trained = part if seed == 0 or entry.tune_each_seed else _tuned(part)
                            label = (
                                f"{architecture} from {init}, seed {profile.seed + seed},"
                                f" {_describe(trained)}"
                            )
                            yield label, _trial_hours(profile, entry, trained, init, gmacs)
        case DetectEntry():
            for backbone in entry.detect.backbones:
                for init in entry.detect.inits:
                    for seed in range(entry.detect.seeds):
                        yield (
                            f"{backbone} from {init}, seed {profile.seed + seed}",
                            _detect_hours(entry, backbone),
                        )
        case GeneralisationEntry():
            images = entry.evaluate.images or _n_test(profile)
            for ghn in entry.ghns:
                for split in entry.architectures.splits:
                    n = entry.architectures.per_split or {"test": 500}.get(split, 100)
                    n = min(n, entry.cheapest or n)
                    hours = n * (
                        _forward_hours(_deepnets_gmacs(profile, split), 2 * images)
                        + PREDICTION_HOURS
                    )
                    yield f"{n} networks of {split} from {ghn}", hours
                for name in _torchvision(profile, entry):
                    hours = _forward_hours(_gmacs(profile, name), 2 * images) + PREDICTION_HOURS
                    yield f"{name} from {ghn}", hours
        case DiversityEntry():
            n = 74 if entry.names == "all" else len(entry.names)
            for init in entry.inits:
                yield f"{n} networks from {init}, 3 shapes", 3 * n * PREDICTION_HOURS
        case ActivationsEntry() | GradientsEntry():
            for name in entry.names:
                for init in entry.inits:
                    yield (
                        f"{name} from {init}",
                        entry.seeds
                        * (
                            PREDICTION_HOURS
                            + _forward_hours(_gmacs(profile, name), 3 * entry.images)
                        ),
                    )
        case SpeedEntry():
            for name, changes in entry.variants.items():
                config = profile.variant_config(changes)
                images = (entry.steps + 1) * config.meta_batch_size * config.batch_size
                hours = _forward_hours(_deepnets_gmacs(profile, "test"), 3 * images)
                yield f"{entry.steps + 1} training steps of {name}", hours
        case NasEntry():
            truth = profile.experiments[entry.truth]
            if isinstance(truth, TrialsEntry):
                for architecture, gmacs in _networks(profile, truth.select, Part()):
                    yield (
                        f"7 scores of {architecture}",
                        entry.seeds * 7 * _forward_hours(gmacs, 3 * entry.batch_size),
                    )
                    for ghn in entry.ghns:
                        hours = _forward_hours(gmacs, entry.images) + PREDICTION_HOURS
                        yield f"accuracy of {architecture} from {ghn}", hours


def _networks(profile: Profile, select: Selection, part: Part) -> Iterator[tuple[str, float]]:
    """Architectures of a selection with their cost; those chosen by results stand as places in a
    ranking.
    """
    for name in select.names:
        if part.architectures is None or name in part.architectures:
            yield name, _gmacs(profile, name)
    if select.best_of is not None:
        for split in select.splits:
            n = select.top_k or {"test": 500, "torchvision": 74}.get(split, 100)
            for place in range(n):
                yield (
                    f"{split} number {place + 1} by {select.best_of}",
                    _deepnets_gmacs(profile, split),
                )
    for place in range(select.cheapest or 0):
        kind = f" with {select.primitive}" if select.primitive else ""
        yield (
            f"{'/'.join(select.splits)} number {place + 1} by cost{kind}",
            _deepnets_gmacs(profile, select.splits[0]),
        )


def _tuned(part: Part) -> Part:
    """The part with one point for its grid, which is chosen when the first seed is through."""
    grid = {name: values[:1] for name, values in part.grid}
    return part.model_copy(update={"grid": Grid(**grid)})


def _trial_hours(
    profile: Profile, entry: TrialsEntry, part: Part, init: str, gmacs: float
) -> float:
    points = part.grid.points(part.train)
    hours = sum(_forward_hours(gmacs, 3 * point.batch_size * point.steps) for point in points)
    evaluations = sum(2 + len(point.evaluate_at) for point in points)
    images = profile.images.max_val or 10_000
    hours += _forward_hours(
        gmacs, evaluations * (images + part.train.statistics_images) + _n_test(profile)
    )
    if entry.pretrain is not None:
        hours += _forward_hours(gmacs, 3 * entry.pretrain.batch_size * entry.pretrain.steps)
    if init == SELECTION and entry.larger is not None:
        larger = entry.larger.train
        gmacs_larger = _gmacs(profile, entry.larger.architecture)
        hours += _forward_hours(gmacs_larger, 3 * larger.batch_size * larger.steps)
    if init == "gradinit":  # two passes, the gradient of one of them differentiated again
        hours += _forward_hours(gmacs, 9 * entry.gradinit.batch_size * entry.gradinit.iterations)
    if init == "nio":  # a pass, and a gradient of each part that is differentiated again
        hours += _forward_hours(gmacs, 7 * entry.nio.batch_size * entry.nio.iterations)
    if init == "metainit":
        hours += _forward_hours(gmacs, 9 * entry.metainit.batch_size * entry.metainit.iterations)
    return hours + PREDICTION_HOURS


def _detect_hours(entry: DetectEntry, backbone: str) -> float:
    config = entry.detect.detector
    pixels = config.min_size * min(config.max_size, 1.3 * config.min_size)
    backbone_gmacs = forward_gmacs(backbone, 1000, 224) * pixels / 224**2
    channels = 512 if backbone in ("resnet18", "resnet34") else 2048
    head_gmacs = (
        config.rois * (49 * channels * config.representation + config.representation**2) / 1e9
    )
    images = (entry.detect.n_images or 170) * config.epochs
    return _forward_hours(backbone_gmacs + head_gmacs, 3 * images)


def _ghn_hours(profile: Profile, name: str) -> float:
    """Training a hypernetwork: the networks of its meta-batches are most of the cost."""
    config = profile.train_config(name)
    images = config.steps * config.meta_batch_size * config.batch_size
    return _forward_hours(_deepnets_gmacs(profile, "test"), 3 * images)


def _forward_hours(gmacs: float, images: float) -> float:
    return 2 * gmacs * 1e9 * images / A100_FLOPS / 3600


def _gmacs(profile: Profile, name: str) -> float:
    if name.startswith("deepnets1m/"):
        return _deepnets_gmacs(profile, name.split("/")[1])
    return forward_gmacs(name, profile.num_classes, profile.images.image_size)


def _deepnets_gmacs(profile: Profile, split: str) -> float:
    if split == "torchvision":
        return 8.0  # the mean of the 74 at 224 pixels; at small images they cost about half as much
    gmacs = DEEPNETS_GMACS.get(split, DEEPNETS_GMACS["test"])  # of train and val by the same rules
    return gmacs * (1 if profile.images.image_size > 64 else 0.15)


def _torchvision(profile: Profile, entry: GeneralisationEntry) -> Sequence[str]:
    from ghn.architectures import TORCHVISION_74

    listed = entry.architectures.torchvision
    names = TORCHVISION_74 if listed == "all" else listed
    if entry.cheapest is None:
        return names
    return sorted(names, key=lambda name: _gmacs(profile, name))[: entry.cheapest]


def _n_test(profile: Profile) -> int:
    return profile.images.max_test or 50_000


def _describe(part: Part) -> str:
    n = len(part.grid.points(part.train))
    return f"{counted(n, 'point')} of {counted(part.train.steps, 'step')} ({part.name})"
