"""Runs the experiments of a profile one after the other, each into results/experiments/<name>.parquet.

Everything is resumable: hypernetworks train from their last checkpoint, trials and measurements are cached as they
finish, and a finished experiment costs the look-up of its rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from flows import paths
from flows.architectures import ArchitecturesConfig, open_split, targets
from flows.experiments import measures
from flows.experiments.catalogue import (
    ActivationsEntry,
    DetectEntry,
    DiversityEntry,
    Entry,
    GeneralisationEntry,
    GradientsEntry,
    Hypernetwork,
    NasEntry,
    Profile,
    Selection,
    TrialsEntry,
)
from flows.experiments.initialise import BASELINES, hypernetwork, source
from flows.experiments.networks import forward_gmacs
from flows.experiments.trials import COLUMNS, ImagesSpec, Trial, run_trials, trial_images
from flows.fanout import FanOut, fan_out
from flows.params import Params, load_params
from flows.results import Row, code_digest, digest, read_rows, write_rows
from flows.stages import detect, evaluate, finetune, train
from flows.stages.images import ImagesConfig
from flows.sweep import Provenance, sweep
from ghn.errors import ConfigError
from ghn.files import atomic_path, sha256

RESULTS = paths.RESULTS / "experiments"
TRIAL_COLUMNS: dict[str, pa.DataType] = {**COLUMNS, "part": pa.string()}


def path_of(name: str) -> Path:
    """The rows of an experiment."""
    return RESULTS / f"{name}.parquet"


@dataclass(frozen=True)
class Runner:
    """A profile with the machine it runs on."""

    profile: Profile
    params: Params
    fanout: FanOut

    @cached_property
    def device(self) -> str:
        """Where networks train."""
        return self.params.base.torch_device()

    def run(self, names: Sequence[str] = ()) -> list[Path]:
        """Runs the named experiments (by default all) and what they need; returns the files.

        Raises:
            ConfigError: no such experiment.
        """
        written: list[Path] = []
        for name in self.order(names):
            entry = self.profile.experiments[name]
            tqdm.write(f"{name}: {entry.title} ({entry.paper})")
            if (path := self.run_one(name, entry)) is not None:
                written.append(path)
        return written

    def order(self, names: Sequence[str]) -> list[str]:
        """The experiments to run, what is needed first."""
        known = self.profile.experiments
        if unknown := sorted(set(names) - set(known)):
            raise ConfigError(f"no experiment {', '.join(unknown)}; there are {', '.join(known)}")
        ordered: list[str] = []

        def add(name: str) -> None:
            for need in known[name].needs:
                add(need)
            if name not in ordered:
                ordered.append(name)

        for name in names or known:
            add(name)
        return ordered

    def run_one(self, name: str, entry: Entry) -> Path | None:
        """Runs one experiment, training first the hypernetworks that it names."""
        self.train_hypernetworks(ghns_of(entry))
        path = path_of(name)
        match entry:
            case TrialsEntry():
                rows = self.trials(entry, name)
                write_rows(path, rows, TRIAL_COLUMNS)
            case DetectEntry():
                detect.detect(entry.detect, self.any_ghn(), self.profile.seed, self.device, self.fanout, path)
            case GeneralisationEntry():
                write_rows(path, self.generalisation(entry), evaluate.COLUMNS)
            case DiversityEntry() | ActivationsEntry() | GradientsEntry() | NasEntry():
                workers = entry.workers if isinstance(entry, GradientsEntry) else None
                fanout = self.fanout if workers is None else self.fanout.model_copy(update={"workers": workers})
                write_rows(path, measures.measure(self.jobs(entry), fanout, name), measures.COLUMNS[entry.kind])
            case _:
                return None
        return path

    def trials(self, entry: TrialsEntry, title: str) -> list[Row]:
        """Rows of all parts of an entry."""
        rows: list[Row] = []
        for part in entry.parts:
            found = run_trials(self.plan_trials(entry)[part.name], self.fanout, title=f"{title} {part.name}")
            rows += [row | {"part": part.name} for row in found]
        return rows

    def plan_trials(self, entry: TrialsEntry) -> dict[str, list[Trial]]:
        """The trials of each part."""
        chosen = self.select(entry.select)
        return {
            part.name: [
                Trial(
                    architecture=architecture,
                    init=init,
                    seed=self.profile.seed + seed,
                    images=entry.images or self.profile.images,
                    source_images=entry.source_images,
                    pretrain=entry.pretrain,
                    grid=part.grid,
                    finetune=part.train,
                    gradinit=entry.gradinit,
                    metainit=entry.metainit,
                    keep_logits=entry.keep_logits,
                    device=self.device,
                )
                for architecture in chosen
                if part.architectures is None or architecture in part.architectures
                for init in entry.inits
                for seed in range(entry.seeds)
            ]
            for part in entry.parts
        }

    def select(self, select: Selection) -> list[str]:
        """Ids of the architectures of a selection."""
        chosen = list(select.names)
        size, classes = self.profile.images.image_size, self.profile.num_classes
        if select.best_of is not None:
            rows = [
                row
                for row in read_rows(path_of("generalisation"))
                if row["ghn"] == select.best_of and row["split"] in select.splits
            ]
            choice = finetune.FinetuneStageConfig(top_k=select.top_k, max_gmacs=select.max_gmacs)
            chosen += finetune.choose(rows, choice)
        if select.cheapest is not None:
            splits = tuple(split for split in select.splits if split != "torchvision")
            candidates = targets(ArchitecturesConfig(splits=splits, torchvision=()))
            if select.primitive is not None:
                candidates = [c for c in candidates if _has(c.split, c.index, select.primitive)]
            ranked = sorted((forward_gmacs(c.id, classes, size), place) for place, c in enumerate(candidates))
            chosen += [candidates[place].id for _, place in ranked[: select.cheapest]]
        return chosen

    def generalisation(self, entry: GeneralisationEntry) -> list[Row]:
        """Accuracy of each hypernetwork's predictions for each architecture."""
        images = trial_images(self.profile.images)[2]
        if entry.evaluate.images is not None and entry.evaluate.images < len(images):
            images = images.subset(range(entry.evaluate.images))
        size, classes = self.profile.images.image_size, self.profile.num_classes
        chosen = targets(entry.architectures)
        if entry.max_gmacs is not None:
            chosen = [t for t in chosen if forward_gmacs(t.id, classes, size) <= entry.max_gmacs]
        rows: list[Row] = []
        for ghn in entry.ghns:
            location = self.location(ghn)
            data = digest(sha256(location) if Path(location).is_file() else location, images.digest)
            rows += sweep(
                f"experiments-{ghn}",
                chosen,
                evaluate.Evaluate(hypernetwork(location), images, entry.evaluate, self.profile.seed, self.device),
                Provenance(ghn, self.profile.seed, data),
                entry.evaluate.model_dump(mode="json"),
                self.fanout,
                evaluate.CODE,
            )
        return rows

    def jobs(self, entry: DiversityEntry | ActivationsEntry | GradientsEntry | NasEntry) -> list[measures.Job]:
        """The measurements of an entry."""
        seed, classes = self.profile.seed, self.profile.num_classes
        spec = self.profile.images.model_dump(mode="json")
        common = {"num_classes": classes, "image_size": self.profile.images.image_size, "images_spec": spec}

        def job(architecture: str, init: str, seed: int, **settings: object) -> measures.Job:
            return measures.Job(
                measure=entry.kind, architecture=architecture, init=init, seed=seed, settings={**common, **settings}
            )

        match entry:
            case DiversityEntry():
                from ghn.architectures import TORCHVISION_74

                names = list(TORCHVISION_74) if entry.names == "all" else list(entry.names)
                options = {"names": names, "image_size": entry.image_size, "images_spec": None}
                limits = {"max_tensors": entry.max_tensors, "max_matched": entry.max_matched}
                return [
                    job("torchvision", init, seed, **options, **limits, shape=list(shape), matched=matched)
                    for shape in measures.SHAPES
                    for init in entry.inits
                    for matched in ((False, True) if init in BASELINES else (False,))
                ]
            case ActivationsEntry():
                return [
                    job(name, init, seed + i, images=entry.images)
                    for name in entry.names
                    for init in entry.inits
                    for i in range(entry.seeds if init in BASELINES else 1)
                ]
            case GradientsEntry():
                options = {"images": entry.images, "image_size": entry.image_size, "chunk": entry.chunk}
                return [
                    job(name, init, seed + i, **options)
                    for name in entry.names
                    for init in entry.inits
                    for i in range(entry.seeds)
                ]
            case NasEntry():
                truth = read_rows(path_of(entry.truth), ["architecture"])
                names = list(dict.fromkeys(row["architecture"] for row in truth))
                return [
                    job(name, "randinit", seed + i, images=entry.batch_size)
                    for name in names
                    for i in range(entry.seeds)
                ]

    def location(self, ghn: str) -> str:
        """What `from_pretrained` takes for hypernetwork `ghn`."""
        return source(ghn)

    def any_ghn(self) -> str:
        """A hypernetwork of the profile, for what they all share."""
        return next(iter(self.profile.hypernetworks), self.params.base.ghn)

    def train_hypernetworks(self, names: Sequence[str]) -> None:
        """Puts those that models/ lacks, or has by another recipe, there: trains them side by side, or fetches them."""
        missing = [name for name in names if self.is_missing(name)]
        if missing:
            for _ in fan_out(_Train(self.profile, self.params), missing, self.fanout, title="hypernetworks"):
                pass

    def is_missing(self, name: str) -> bool:
        """Whether hypernetwork `name` of the profile has to be trained, or fetched."""
        if name not in self.profile.hypernetworks:
            return False
        stamp = paths.model(name) / "recipe.json"
        return not stamp.exists() or json.loads(stamp.read_text()) != recipe(self.profile, name)


@dataclass(frozen=True)
class _Train:
    """Trains one hypernetwork; travels to the workers."""

    profile: Profile
    params: Params

    def __call__(self, name: str) -> str:
        known: Hypernetwork = self.profile.hypernetworks[name]
        if known.released is not None:
            from ghn import from_pretrained, save_checkpoint

            save_checkpoint(from_pretrained(known.released), paths.weights(name))
        else:
            self.train(name, known)
        with atomic_path(paths.model(name) / "recipe.json") as temporary:
            temporary.write_text(json.dumps(recipe(self.profile, name)))
        return name

    def train(self, name: str, known: Hypernetwork) -> None:
        """Trains as the stage `train` does."""
        seed = self.profile.seed if known.seed is None else known.seed
        spec: ImagesSpec = self.profile.images
        params = self.params.model_copy(
            update={
                "base": self.params.base.model_copy(update={"ghn": name, "seed": seed}),
                "images": ImagesConfig(
                    name=spec.name,
                    root=spec.root,
                    image_size=spec.image_size,
                    val_fraction=spec.val_fraction,
                    test_fraction=spec.test_fraction,
                    stream=spec.stream,
                ),
                "train": self.profile.train_config(name),
            }
        )
        trial_images(spec)  # decodes the images where they are not yet; the split is the profile's for every seed
        train.run(params, None)


def recipe(profile: Profile, name: str) -> list[object]:
    """All that decides a trained hypernetwork but the architectures; of a released one its name."""
    known = profile.hypernetworks[name]
    if known.released is not None:
        return [known.released]
    seed = known.seed
    config = profile.train_config(name).model_dump(mode="json")
    return [profile.seed if seed is None else seed, config, profile.images.name, code_digest("ghn/train", "ghn/models")]


def ghns_of(entry: Entry) -> list[str]:
    """The hypernetworks that an entry names."""
    match entry:
        case GeneralisationEntry():
            return list(entry.ghns)
        case DetectEntry():
            named: Sequence[str] = entry.detect.inits
        case TrialsEntry() | DiversityEntry() | ActivationsEntry() | GradientsEntry():
            named = entry.inits
        case _:
            return []
    return [init for init in named if init not in BASELINES]


def runner(profile: Profile, workers: int | None = None) -> Runner:
    """A runner with the machine's settings of params.yaml."""
    params = load_params()
    fanout = params.fanout if workers is None else params.fanout.model_copy(update={"workers": workers})
    return Runner(profile, params, fanout)


def _has(split: str, index: int | None, primitive: str) -> bool:
    from ghn.graph import Primitive

    if index is None:
        return False
    graph = open_split(paths.DEEPNETS, split).graph(index)
    return bool((graph.primitive == Primitive[primitive]).any())
