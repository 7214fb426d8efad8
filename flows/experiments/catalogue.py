"""What the experiments of the paper are: typed entries read from a profile in
params/experiments/. The stages finetune and transfer are entries too (`flows.settings.trials`).

An entry is a configuration of one of a few kinds of work (`trials`, `detect`, `generalisation`,
measures) under the number of the paper's table or figure; hypernetworks that entries name are
entries too, to be trained or already released.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from flows.settings.architectures import ArchitecturesConfig
from flows.settings.detect import DetectConfig
from flows.settings.evaluate import EvaluateConfig
from flows.settings.files import find_profile, merge, parse, read_yaml
from flows.settings.images import ImagesSpec
from flows.settings.imports import ROOT
from flows.settings.inits import BASELINES, hypernetwork_name
from flows.settings.train import TrainStageConfig
from flows.settings.trials import Described, Selection, TrialsEntry
from ghn.errors import ConfigError
from ghn.settings import Once

PROFILES = ROOT / "params" / "experiments"
"""A file per profile: those of params.yaml stand in the folder above."""


class DetectEntry(Described):
    """Trains detectors (`flows.experiments.detect`)."""

    kind: Literal["detect"] = "detect"
    detect: DetectConfig
    optional: bool = Field(
        default=False,
        description="where the images are absent: true: rows that say so, false: it fails",
    )


class GeneralisationEntry(Described):
    """Accuracy of predicted parameters without training, per hypernetwork and split."""

    kind: Literal["generalisation"] = "generalisation"
    ghns: Once[str] = Field(min_length=1)
    architectures: ArchitecturesConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    images: ImagesSpec | None = Field(default=None, description="by default those of the profile")
    cheapest: int | None = Field(
        default=None, ge=1, description="only so many of each split, those of least cost"
    )


class MeasuredEntry(Described):
    """A measure of networks, as jobs that run beside each other."""

    workers: int | None = Field(
        default=None, ge=1, description="jobs at once; null: as many as the machine takes"
    )


class DiversityEntry(MeasuredEntry):
    """Mean absolute cosine distance of equal-shaped tensors."""

    kind: Literal["diversity"] = "diversity"
    inits: Once[str]
    names: Literal["all"] | Once[str] = "all"
    image_size: int = 224
    max_tensors: int = Field(default=100, ge=2, description="of a shape, drawn by seed")
    max_matched: int = Field(default=12, ge=2, description="of a shape where channels are matched")


class ActivationsEntry(MeasuredEntry):
    """Variance of activations per layer."""

    kind: Literal["activations"] = "activations"
    inits: Once[str]
    names: Once[str]
    images: int = 64
    seeds: int = 3


class GradientsEntry(MeasuredEntry):
    """Gradient norm at initialisation."""

    kind: Literal["gradients"] = "gradients"
    inits: Once[str]
    names: Once[str]
    image_size: int = 224
    images: int = 8
    chunk: int = 4
    seeds: int = 1
    workers: int | None = Field(
        default=None, ge=1, description="jobs at once; the largest networks take 10 GB each"
    )


class NasEntry(MeasuredEntry):
    """Scores of architectures, hypernetworks' accuracies among them, to be ranked against trained
    accuracy.
    """

    kind: Literal["nas"] = "nas"
    truth: str = Field(description="the entry that trains")
    ghns: Once[str] = Field(
        default=(), description="whose accuracy without training is a score too"
    )
    images: int = Field(default=256, ge=2, description="on which it is measured")
    batch_size: int = 64
    seeds: int = 1


class SpeedEntry(MeasuredEntry):
    """Steps a second of training hypernetworks of several kinds, beside the accuracy of those that
    an entry of `needs` measured.
    """

    kind: Literal["speed"] = "speed"
    variants: dict[str, dict[str, Any]] = Field(description="what differs from `train`, by name")
    steps: int = Field(default=5, ge=1, description="that are timed, after one that is not")
    workers: int | None = Field(default=1, ge=1, description="jobs at once: others take its time")


class DerivedEntry(Described):
    """A table that is computed from the rows of others alone."""

    kind: Literal["derived"] = "derived"


Entry = Annotated[
    TrialsEntry
    | DetectEntry
    | GeneralisationEntry
    | DiversityEntry
    | ActivationsEntry
    | GradientsEntry
    | NasEntry
    | SpeedEntry
    | DerivedEntry,
    Field(discriminator="kind"),
]


class Hypernetwork(BaseModel):
    """A hypernetwork that experiments name: trained here by a recipe, or released."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    released: str | None = Field(default=None, description="what from_pretrained takes")
    seed: int | None = Field(default=None, description="by default the profile's")
    train: dict[str, Any] = Field(
        default_factory=dict, description="what differs from the profile's `train`"
    )
    images: ImagesSpec | None = Field(default=None, description="by default those of the profile")
    meta_batch: int | None = Field(
        default=None, description="published meta-batch size of a released one, for fig. 1"
    )
    gpu_days: float | None = Field(
        default=None, description="published cost of training, for the dry run"
    )


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$")]
"""Of files, of fields of the profile and in commands: as it is, in each of them."""


def _is_own(name: str) -> str:
    if name in BASELINES:
        raise ValueError("an initialisation without a hypernetwork; take another name")
    return name


def _is_page(name: str) -> str:
    if name == "index":
        raise ValueError("the page that lists all; take another name")
    return name


class Profile(BaseModel):
    """A set of experiments at one size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 1
    images: ImagesSpec
    num_classes: int
    train: dict[str, Any] = Field(
        default_factory=dict, description="recipe shared by the hypernetworks trained here"
    )
    hypernetworks: dict[Annotated[Name, AfterValidator(_is_own)], Hypernetwork] = Field(
        default_factory=dict
    )
    experiments: dict[Annotated[Name, AfterValidator(_is_page)], Entry]

    def train_config(self, name: str) -> TrainStageConfig:
        """The recipe of hypernetwork `name`."""
        return TrainStageConfig(**merge(self.train, self.hypernetworks[name].train))

    def variant_config(self, changes: Mapping[str, Any]) -> TrainStageConfig:
        """The shared recipe with `changes`; a variant keeps nothing of the shared one's `ghn`."""
        shared = {key: value for key, value in self.train.items() if key != "ghn"}
        return TrainStageConfig(**merge(shared if "variant" in changes else self.train, changes))

    def meta_batch(self, name: str) -> int:
        """Architectures in a step of training hypernetwork `name`."""
        return self.hypernetworks[name].meta_batch or self.train_config(name).meta_batch_size

    def images_of(self, name: str) -> ImagesSpec:
        """Returns what hypernetwork `name` is trained on."""
        return self.hypernetworks[name].images or self.images

    def hypernetworks_of(self, entry: Entry) -> list[str]:
        """The hypernetworks that an entry names, as far as they are the profile's."""
        names = dict.fromkeys(map(hypernetwork_name, inits_of(entry)))
        return [name for name in names if name in self.hypernetworks]


def inits_of(entry: Entry) -> tuple[str, ...]:
    """The initialisations that an entry names."""
    match entry:
        case GeneralisationEntry() | NasEntry():
            return entry.ghns
        case DetectEntry():
            return entry.detect.inits
        case TrialsEntry() | DiversityEntry() | ActivationsEntry() | GradientsEntry():
            return entry.inits
    return ()


def profile_path(name: str) -> Path:
    """The file of the profile `laptop` or `paper`, or `name` itself if it is a YAML file's."""
    return Path(name) if name.endswith((".yaml", ".yml")) else find_profile(PROFILES, name)


def load_profile(name: str) -> Profile:
    """The profile `laptop` or `paper`, or a YAML file.

    Raises:
        ConfigError: there is no such profile, a field is missing, unknown or out of range, or an
            experiment names what is not there, or does not name whose rows it reads.
    """
    path = profile_path(name)
    profile = parse(Profile, read_yaml(path), str(path))
    for ghn, known in profile.hypernetworks.items():
        where = f"{path}: hypernetworks.{ghn}.train over train"
        parse(TrainStageConfig, merge(profile.train, known.train), where)
    for entry_name, entry in profile.experiments.items():
        if missing := [need for need in entry.needs if need not in profile.experiments]:
            raise ConfigError(
                f"{path}: experiments.{entry_name}.needs names {', '.join(missing)}, which do not"
                " exist"
            )
        _check(profile, entry, f"{path}: experiments.{entry_name}")
    try:
        TopologicalSorter({name: e.needs for name, e in profile.experiments.items()}).prepare()
    except CycleError as error:
        raise ConfigError(
            f"{path}: experiments need each other in a circle, by their `needs`:"
            f" {' -> '.join(error.args[1])}"
        ) from None
    return profile


def _check(profile: Profile, entry: Entry, where: str) -> None:
    """Refuses an entry that names what is not there; `where` is the entry, for messages."""
    known = profile.experiments
    match entry:
        case NasEntry() if not isinstance(known.get(entry.truth), TrialsEntry):
            trained = [name for name, other in known.items() if isinstance(other, TrialsEntry)]
            raise ConfigError(
                f"{where}.truth = {entry.truth!r}: no experiment of kind trials; there are"
                f" {', '.join(trained) or 'none'}"
            )
        case DerivedEntry() if not entry.needs:
            raise ConfigError(f"{where}.needs is empty: name the experiment whose rows it shows")
        case NasEntry():
            _check_needs(entry, entry.truth, where)
        case TrialsEntry():
            _check_selection(profile, entry.select, f"{where}.select")
            if entry.select.best_of is not None:
                _check_needs(entry, "generalisation", where)
        case _:
            pass


def _check_needs(entry: Entry, read: str, where: str) -> None:
    """Refuses an entry that reads the rows of an experiment which may run after it."""
    if read not in entry.needs:
        raise ConfigError(f"{where}.needs lacks {read}, whose rows it reads")


def _check_selection(profile: Profile, select: Selection, where: str) -> None:
    measured = profile.experiments.get("generalisation")
    ghns = measured.ghns if isinstance(measured, GeneralisationEntry) else ()
    if select.best_of is not None and select.best_of not in ghns:
        raise ConfigError(
            f"{where}.best_of = {select.best_of!r}: its accuracies are not measured by the"
            f" experiment generalisation, whose ghns are {', '.join(ghns) or 'none'}"
        )
    if select.primitive is not None:
        from ghn.graph import Primitive

        if select.primitive not in Primitive.__members__:
            raise ConfigError(
                f"{where}.primitive = {select.primitive!r}: no node type; there are"
                f" {', '.join(Primitive.__members__)}"
            )
