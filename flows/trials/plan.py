"""From an entry of the catalogue to its trials and their rows: for the stages finetune and transfer
as for the experiments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.networks.build import forward_gmacs
from flows.networks.targets import open_split, split_of, targets
from flows.rows.schema import Row, identity, read_rows, sound
from flows.settings import paths
from flows.settings.architectures import ArchitecturesConfig
from flows.settings.fanout import FanOut
from flows.settings.images import ImagesSpec
from flows.settings.trials import Grid, Part, Selection, TrialsEntry
from flows.trials.execution import run_trials
from flows.trials.images import data_available
from flows.trials.spec import Trial
from ghn.errors import ConfigError, DamagedFileError, MissingDataError


@dataclass(frozen=True)
class TrialSetting:
    """The trials of all entries share this.

    Attributes:
        images: of entries that name none.
        seed: the first of an entry's seeds.
        device: where networks train.
        evaluation: rows of accuracies without training, by which the best are chosen.
        num_classes: of the networks whose costs are compared where the cheapest are chosen.
    """

    images: ImagesSpec
    seed: int
    device: str
    evaluation: Path = paths.EVALUATION
    num_classes: int = 10


def entry_rows(
    entry: TrialsEntry, setting: TrialSetting, fanout: FanOut, title: str, field: str | None = None
) -> dict[str, list[Row]]:
    """Rows of each part of an entry, by its name.

    Args:
        entry: of the catalogue.
        setting: what it shares with others.
        fanout: where the trials run.
        title: names the work in messages.
        field: where `optional` can be set, if anywhere, for messages.

    Raises:
        MissingDataError: the images are absent, and the entry is not `optional`. If it is, each
            trial has a row that says so.
        GHNError: as `run_trials`.
    """
    images = entry.images or setting.images
    missing = data_available(images) if entry.optional or field else None
    if missing and not entry.optional:
        raise MissingDataError(
            f"the images of {images.name} are not there ({missing}). Put them there, name others,"
            f" or set {field}: true to go on without these results"
        )
    rows: dict[str, list[Row]] = {}
    for name, trials in trials_of(entry, setting).items():
        if missing:
            rows[name] = [_absent(trial, missing) for trial in trials]
        else:
            label = title if len(entry.parts) == 1 else f"{title} {name}"
            if entry.tune_each_seed:
                rows[name] = run_trials(trials, fanout, title=label)
            else:
                rows[name] = _tuned_once(trials, setting.seed, fanout, label)
    return rows


def _tuned_once(trials: Sequence[Trial], seed: int, fanout: FanOut, title: str) -> list[Row]:
    """Rows of the trials of `seed` on their grid, then those of other seeds, each at the point that
    the trial of `seed` has chosen; on the grid where that trial failed.
    """
    first = [trial for trial in trials if trial.seed == seed]
    rows = run_trials(first, fanout, title=f"{title}, tuning")
    chosen = {(row["architecture"], row["ghn"]): _point(row) for row in rows if row.get("selected")}
    later = [
        trial.model_copy(update={"grid": chosen.get((trial.architecture, trial.init), trial.grid)})
        for trial in trials
        if trial.seed != seed
    ]
    rows += run_trials(later, fanout, title=f"{title}, other seeds")
    place = {(t.architecture, t.init, t.seed): place for place, t in enumerate(trials)}
    return sorted(rows, key=lambda row: place[row["architecture"], row["ghn"], row["seed"]])


def _point(row: Row) -> Grid:
    """The grid whose one point is a row's."""
    return Grid(**{name: (row[name],) for name in Grid.model_fields})


def trials_of(entry: TrialsEntry, setting: TrialSetting) -> dict[str, list[Trial]]:
    """The trials of each part of an entry, by its name; each once, however often it is named."""
    chosen = selected(entry.select, setting)
    return {part.name: _of_part(entry, part, chosen, setting) for part in entry.parts}


def _of_part(
    entry: TrialsEntry, part: Part, chosen: Sequence[str], setting: TrialSetting
) -> list[Trial]:
    """The trials of a part; a field that entry and trial have by one name is the same."""
    both = Trial.model_fields.keys() & TrialsEntry.model_fields.keys()
    shared = {name: getattr(entry, name) for name in both}
    shared |= {"images": entry.images or setting.images, "device": setting.device}
    return [
        Trial(
            architecture=architecture,
            init=init,
            seed=setting.seed + seed,
            grid=part.grid,
            finetune=part.train,
            **shared,
        )
        for architecture in chosen
        if part.architectures is None or architecture in part.architectures
        for init in entry.inits
        for seed in range(entry.seeds)
    ]


def _absent(trial: Trial, error: str) -> Row:
    """The row of a trial whose data is not there."""
    return identity(
        trial.architecture, split_of(trial.architecture), trial.init, trial.seed, "", error
    ) | {"images": trial.images.name}


def selected(selection: Selection, setting: TrialSetting) -> list[str]:
    """Ids of the architectures of a selection.

    Raises:
        ConfigError: none is left: all cost more than `max_gmacs`, or none has the `primitive`.
        DamagedFileError: the best are asked for, and no architecture has an accuracy.
    """
    chosen = list(selection.names)
    if selection.best_of is not None:
        rows = [
            row
            for row in read_rows(setting.evaluation)
            if row["ghn"] == selection.best_of and row["split"] in selection.splits
        ]
        chosen += choose(rows, selection.top_k, selection.max_gmacs, setting.evaluation)
    if selection.cheapest is not None:
        splits = tuple(split for split in selection.splits if split != "torchvision")
        candidates = targets(ArchitecturesConfig(splits=splits, torchvision=())) if splits else []
        if selection.primitive is not None:
            candidates = [c for c in candidates if _has(c.split, c.index, selection.primitive)]
        if not candidates:
            having = f" with `primitive: {selection.primitive}`" if selection.primitive else ""
            among = ", ".join(selection.splits)
            raise ConfigError(
                f"`cheapest` finds no network{having} of DeepNets-1M in `splits: [{among}]`; name"
                " others"
            )
        size = setting.images.image_size
        ranked = sorted(
            (forward_gmacs(c, setting.num_classes, size), place)
            for place, c in enumerate(candidates)
        )
        chosen += [candidates[place].id for _, place in ranked[: selection.cheapest]]
    return list(dict.fromkeys(chosen))


def choose(
    rows: Sequence[Row],
    top_k: int | None,
    max_gmacs: float | None,
    source: Path = paths.EVALUATION,
) -> list[str]:
    """Ids of the architectures to fine-tune: of each split the `top_k` best by accuracy without
    fine-tuning, on validation images: the test images are for what comes out.

    Those that cost more than `max_gmacs` are passed over, so that a laptop's budget is spent on
    several networks rather than on one.

    Raises:
        ConfigError: all cost more than `max_gmacs`.
        DamagedFileError: no row of `source` has an accuracy.
    """
    chosen: dict[str, None] = {}
    usable = sound(rows)
    if not usable:
        raise DamagedFileError(f"{source}: no architecture has an accuracy; see its column `error`")
    for split in dict.fromkeys(row["split"] for row in usable):
        within = (
            row["architecture"]
            for row in sorted(usable, key=lambda row: -row["val_accuracy"])
            if row["split"] == split and (max_gmacs is None or row["gmacs"] <= max_gmacs)
        )
        new = [name for name in dict.fromkeys(within) if name not in chosen]
        chosen |= dict.fromkeys(new[:top_k])
    if not chosen:
        least = min(row["gmacs"] for row in usable)
        raise ConfigError(
            f"`max_gmacs: {max_gmacs:g}` leaves no architecture of {source}: the cheapest takes"
            f" {least:.3g} GMACs; raise it"
        )
    return list(chosen)


def _has(split: str, index: int | None, primitive: str) -> bool:
    from ghn.graph import Primitive

    if index is None:
        return False
    graph = open_split(paths.DEEPNETS, split).graph(index)
    return bool((graph.primitive == Primitive[primitive]).any())
