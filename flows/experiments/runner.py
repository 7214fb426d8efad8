"""Runs the experiments of a profile one after the other, each into
results/experiments/<name>.parquet.

Everything is resumable: hypernetworks train from their last checkpoint, trials and measurements are
cached as they finish, and a finished experiment costs the look-up of its rows.
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
    load_profile,
)
from flows.experiments.hypernetworks import obtain
from flows.networks.build import forward_gmacs
from flows.networks.targets import targets
from flows.params import Params, load_params
from flows.rows.schema import Row, read_rows, write_rows
from flows.settings import paths
from flows.settings.fanout import FanOut
from flows.settings.trials import TrialsEntry
from flows.stages import evaluate
from flows.trials.images import trial_images
from flows.trials.initialise import forget_hypernetworks, hypernetwork
from flows.trials.inits import source
from flows.trials.plan import TrialSetting, entry_rows
from flows.trials.spec import COLUMNS
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
        """The device that networks train on."""
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
                write_rows(path, self.trials(name, entry), TRIAL_COLUMNS)
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
                truth = self.truth(entry) if isinstance(entry, NasEntry) else ()
                jobs = measurements.jobs(entry, self.profile, truth, self.device)
                fanout = self.fanout
                if entry.workers is not None:
                    fanout = fanout.model_copy(update={"workers": entry.workers})
                found = measures.measure(jobs, fanout, name)
                write_rows(path, found, measurements.COLUMNS[entry.kind])
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

    def trials(self, name: str, entry: TrialsEntry) -> list[Row]:
        """Rows of all parts of an entry."""
        profile = self.profile
        setting = TrialSetting(
            profile.images,
            profile.seed,
            self.device,
            path_of("generalisation"),
            profile.num_classes,
        )
        field = f"experiments.{name}.optional"
        parts = entry_rows(entry, setting, self.fanout, name, field)
        return [row | {"part": part} for part, rows in parts.items() for row in rows]

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
