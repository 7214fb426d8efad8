"""Runs the experiments of a profile one after the other, each into
results/experiments/<name>.parquet.

Everything is resumable: hypernetworks train from their last checkpoint, trials and measurements are
cached as they
finish, and a finished experiment costs the look-up of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from flows.compute import gpus
from flows.experiments import detect, measurements, measures
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
    TrialsEntry,
    load_profile,
)
from flows.experiments.hypernetworks import obtain
from flows.networks.build import forward_gmacs
from flows.networks.targets import open_split, targets
from flows.params import Params, load_params
from flows.rows.schema import Row, read_rows, write_rows
from flows.settings import paths
from flows.settings.architectures import ArchitecturesConfig
from flows.settings.fanout import FanOut
from flows.settings.trials import Selection
from flows.stages import evaluate
from flows.trials.images import trial_images
from flows.trials.initialise import forget_hypernetworks, hypernetwork, source
from flows.trials.plan import choose, plan
from flows.trials.run import run_trials
from flows.trials.spec import COLUMNS, Trial
from flows.trials.weights import weights_content
from ghn.errors import ConfigError, MissingDataError

RESULTS = paths.RESULTS / "experiments"
TRIAL_COLUMNS: dict[str, pa.DataType] = {**COLUMNS, "part": pa.string()}


def path_of(name: str) -> Path:
    """The rows of an experiment."""
    return RESULTS / f"{name}.parquet"


@dataclass(frozen=True)
class Runner:
    """A profile, by its name and as read, with the machine it runs on."""

    profile_name: str
    profile: Profile
    params: Params
    fanout: FanOut

    @cached_property
    def device(self) -> str:
        """Where networks train."""
        return self.params.base.torch_device()

    def run(self, names: Sequence[str] = (), *, alone: bool = False) -> list[Path]:
        """Runs the named experiments (by default all) and what they need; returns the files.

        Args:
            names: of the profile.
            alone: what they need is there already, as DVC sees to it.

        Raises:
            ConfigError: no such experiment.
        """
        written: list[Path] = []
        for name in self.order(names, alone):
            entry = self.profile.experiments[name]
            tqdm.write(f"{name}: {entry.title} ({entry.paper})")
            if not alone:
                for ghn in self.profile.hypernetworks_of(entry):
                    obtain(self.profile_name, ghn)
            if (path := self.run_one(name, entry)) is not None:
                written.append(path)
        return written

    def order(self, names: Sequence[str], alone: bool = False) -> list[str]:
        """The experiments to run, what is needed first."""
        known = self.profile.experiments
        if unknown := sorted(set(names) - set(known)):
            raise ConfigError(f"no experiment {', '.join(unknown)}; there are {', '.join(known)}")
        if alone:
            return list(names or known)
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
        """Runs one experiment; None where it has no rows of its own."""
        path = path_of(name)
        match entry:
            case TrialsEntry():
                write_rows(path, self.trials(entry, name), TRIAL_COLUMNS)
            case DetectEntry():
                ghn = next(iter(self.profile.hypernetworks_of(entry)), self.params.base.ghn)
                seed = self.profile.seed
                try:
                    found = detect.detect(entry.detect, ghn, seed, self.device, self.fanout)
                except MissingDataError as missing:
                    if not entry.optional:
                        raise MissingDataError(
                            f"{missing}; or set experiments.{name}.optional: true"
                        ) from missing
                    found = detect.absent(entry.detect, ghn, seed, missing)
                write_rows(path, found, detect.COLUMNS)
            case GeneralisationEntry():
                write_rows(path, self.generalisation(entry), evaluate.COLUMNS)
            case (
                DiversityEntry() | ActivationsEntry() | GradientsEntry() | NasEntry() | SpeedEntry()
            ):
                jobs = measurements.jobs(
                    entry, self.profile, self.truth(entry) if isinstance(entry, NasEntry) else ()
                )
                workers = getattr(entry, "workers", 1 if isinstance(entry, SpeedEntry) else None)
                fanout = (
                    self.fanout
                    if workers is None
                    else self.fanout.model_copy(update={"workers": workers})
                )
                write_rows(
                    path, measures.measure(jobs, fanout, name), measurements.COLUMNS[entry.kind]
                )
            case _:
                return None
        return path

    def truth(self, entry: NasEntry) -> list[str]:
        """The architectures whose trained accuracy is known."""
        return list(
            dict.fromkeys(
                row["architecture"] for row in read_rows(path_of(entry.truth), ["architecture"])
            )
        )

    def trials(self, entry: TrialsEntry, title: str) -> list[Row]:
        """Rows of all parts of an entry."""
        rows: list[Row] = []
        for part in entry.parts:
            found = run_trials(
                self.plan_trials(entry)[part.name], self.fanout, title=f"{title} {part.name}"
            )
            rows += [row | {"part": part.name} for row in found]
        return rows

    def plan_trials(self, entry: TrialsEntry) -> dict[str, list[Trial]]:
        """The trials of each part."""
        return plan(
            entry,
            self.select(entry.select),
            seed=self.profile.seed,
            images=self.profile.images,
            device=self.device,
        )

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
            chosen += choose(rows, select.top_k, select.max_gmacs)
        if select.cheapest is not None:
            splits = tuple(split for split in select.splits if split != "torchvision")
            candidates = targets(ArchitecturesConfig(splits=splits, torchvision=()))
            if select.primitive is not None:
                candidates = [c for c in candidates if _has(c.split, c.index, select.primitive)]
            ranked = sorted(
                (forward_gmacs(c, classes, size), place) for place, c in enumerate(candidates)
            )
            chosen += [candidates[place].id for _, place in ranked[: select.cheapest]]
        return chosen

    def generalisation(self, entry: GeneralisationEntry) -> list[Row]:
        """Accuracy of each hypernetwork's predictions for each architecture."""
        _, val, images = trial_images(entry.images or self.profile.images)
        images = evaluate.drawn(images, self.profile.seed, entry.evaluate.images)
        val = evaluate.drawn(val, self.profile.seed, entry.evaluate.val_images)
        size, classes = images.image_size, images.num_classes
        chosen = targets(entry.architectures)
        if entry.cheapest is not None:
            ranked = sorted(chosen, key=lambda target: forward_gmacs(target, classes, size))
            chosen = [
                target
                for split in dict.fromkeys(target.split for target in chosen)
                for target in [found for found in ranked if found.split == split][: entry.cheapest]
            ]
        forget_hypernetworks()
        rows: list[Row] = []
        for ghn in entry.ghns:
            measure = evaluate.Evaluate(
                hypernetwork(source(ghn)),
                images,
                val,
                entry.evaluate,
                self.profile.seed,
                self.device,
            )
            rows += evaluate.evaluation_rows(
                f"generalisation of {ghn}", ghn, weights_content(ghn), measure, chosen, self.fanout
            )
        return rows


def runner(profile_name: str, workers: int | None = None) -> Runner:
    """A runner with the machine's settings of params.yaml."""
    params = load_params()
    device, fanout = gpus.agree(params.base.device, params.fanout)
    base = params.base.model_copy(update={"device": device})
    params = params.model_copy(update={"base": base})
    if workers is not None:
        fanout = fanout.model_copy(update={"workers": workers})
    return Runner(profile_name, load_profile(profile_name), params, fanout)


def _has(split: str, index: int | None, primitive: str) -> bool:
    from ghn.graph import Primitive

    if index is None:
        return False
    graph = open_split(paths.DEEPNETS, split).graph(index)
    return bool((graph.primitive == Primitive[primitive]).any())
