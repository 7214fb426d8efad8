"""Carries trials out: every point of the grid trained, the best on validation tested, all of it
kept on disk.

A finished point is kept under its key (`flows.trials.spec`), so a killed stage repeats nothing that
was finished, and a longer grid or another experiment that asks for the same points finds them. The
test set is looked at for the chosen point only.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from datasets.images import ImageStream, ImageTensors
from flows.networks.build import build_network
from flows.networks.targets import split_of
from flows.rows.cache import FileCache
from flows.rows.digest import digest
from flows.rows.engine import Work
from flows.rows.schema import Row, finite, identity
from flows.settings import paths
from flows.settings.fanout import FanOut
from flows.settings.inits import SELECTION
from flows.trials.images import trial_images
from flows.trials.initialise import forget_hypernetworks, initialise
from flows.trials.samples import seen_before_and_after
from flows.trials.spec import Trial
from flows.trials.weights import ChangedInputError
from ghn.files import atomic_path, sha256
from ghn.finetune import Curve, FinetuneConfig, evaluate, finetune, logits, track_running_statistics
from ghn.graph import Graph
from ghn.randomness import seeded


def run_trials(
    trials: Sequence[Trial],
    fanout: FanOut,
    *,
    title: str = "fine-tuning",
    cache: Path = paths.CACHE / "trials",
) -> list[Row]:
    """The rows of all trials in their order, finished ones from the cache and the others by
    workers; none missing.

    A trial that fails for want of something (memory, a shape) gives a row with its error.

    Raises:
        GHNError: a hypernetwork, an architecture or images that are needed are missing or damaged,
            so that trials could not run; or too many failed.
    """
    forget_hypernetworks()
    work = Work(
        title=title,
        items=[Job(trial, trial.data_hash(), cache) for trial in trials],
        measure=run_trial,
        key=lambda job: job.key,
        head=lambda job: job.head,
    )
    return work.rows(FileCache(cache), fanout)


@dataclass(frozen=True)
class Job:
    """A trial with the digest of its data, which the process that hands out trials computes once
    for all of them.
    """

    trial: Trial
    data_hash: str
    cache: Path

    def __str__(self) -> str:
        return str(self.trial)

    @cached_property
    def points(self) -> dict[str, FinetuneConfig]:
        """The grid points by their keys."""
        return self.trial.keys(self.data_hash)

    @cached_property
    def key(self) -> str:
        """Digest of everything that the rows depend on: all points of the grid."""
        return digest(sorted(self.points))

    @property
    def work(self) -> Path:
        """Directory of what a killed trial leaves for the next try."""
        return self.cache / f"trial-{self.key}"

    @property
    def head(self) -> Row:
        """The columns that all rows of the trial share."""
        trial = self.trial
        split = split_of(trial.architecture)
        shared = identity(trial.architecture, split, trial.init, trial.seed, self.data_hash)
        return shared | {"images": trial.images.name}


def run_trial(job: Job) -> list[Row]:
    """Trains all grid points of one trial; returns their rows in the order of their learning
    rates, the chosen one tested.

    Raises:
        ChangedInputError: the data are not those of the job any more.
    """
    trial, work, cache = job.trial, job.work, FileCache(job.cache)
    if trial.data_hash() != job.data_hash:
        raise ChangedInputError(
            f"{trial}: hypernetwork, architecture or images changed since the command began; run it"
            " again"
        )
    train, val, test = trial_images(trial.images)
    start = _Start(trial, train)
    rows: dict[str, Row] = {}
    for key, point in job.points.items():
        if (known := cache.get(key)) is not None:
            (rows[key],) = known
            continue
        model = start.model()
        curve = finetune(
            model,
            train,
            val,
            point,
            seed=trial.seed,
            before=next((row["val_accuracy"][0] for row in rows.values()), None),
            checkpoint=_checkpoint(trial, work, key),
        )
        if all(curve.final > row["final_val_accuracy"] for row in rows.values()):
            _keep_only(model, work, key)
        rows[key] = {**_describe(point), **_measured(curve), "init_seconds": start.seconds}
        cache.put(key, [rows[key]])
    chosen = max(rows, key=lambda key: rows[key]["final_val_accuracy"])
    model = start.model()
    if _is_whole(weights := _weights(work, chosen)):
        model.load_state_dict(torch.load(weights, weights_only=True, map_location=trial.device))
    else:  # the row came from another grid's cache, without weights
        finetune(model, train, val, job.points[chosen], seed=trial.seed)
    shared = {
        "n_train": len(train),
        "n_val": len(val),
        "n_test": len(test),
        "pretrain": None if trial.pretrain is None else f"{trial.pretrain.steps} steps",
        "trial": work.name,
    }
    result = [
        {**shared, **row, "selected": key == chosen, "test_accuracy": None}
        for key, row in sorted(rows.items(), key=lambda entry: entry[1]["lr"])
    ]
    tested = next(row for row in result if row["selected"])
    tested["test_accuracy"] = evaluate(model, test, job.points[chosen])
    if trial.keep_logits:
        tested["logits"] = logits(model, test, job.points[chosen]).flatten().tolist()
        tested["labels"] = test.labels.tolist()
    if trial.samples:
        tested |= seen_before_and_after(
            start.model(), model, test, train, job.points[chosen], trial.samples
        )
    shutil.rmtree(work, ignore_errors=True)
    return result


class _Start:
    """The state that every point of a trial starts from; made when it is first asked for."""

    def __init__(self, trial: Trial, train: ImageTensors | ImageStream):
        self.trial = trial
        self.train = train
        self.seconds = 0.0
        self._model: nn.Module | None = None

    def model(self) -> nn.Module:
        """A fresh copy of the initialised network on the trial's device."""
        if self._model is None:
            self._model = self._make()
            # as in training, so that trained weights fit into a copy
            track_running_statistics(self._model)
        return copy.deepcopy(self._model).to(self.trial.device)

    def _make(self) -> nn.Module:
        trial, train = self.trial, self.train
        source, held_out, _ = trial_images(trial.source_images or trial.images)
        model, graph = self._build(trial.architecture, source.num_classes)
        self.seconds = initialise(
            model,
            graph,
            trial.init,
            seed=trial.seed,
            train=source,
            image_shape=(3, trial.images.image_size, trial.images.image_size),
            num_classes=source.num_classes,
            beta=trial.beta,
            gradinit_config=trial.gradinit,
            metainit_config=trial.metainit,
            nio_config=trial.nio,
            larger=self._larger(source, held_out),
        )
        if trial.pretrain is not None:
            model.to(trial.device)
            finetune(model, source, held_out, trial.pretrain, seed=trial.seed)
            model.cpu()
        if trial.source_images is None:
            return model
        fresh, _ = self._build(trial.architecture, train.num_classes)
        with_new_head(fresh, model)
        return fresh

    def _larger(self, train: ImageTensors | ImageStream, val: ImageTensors) -> nn.Module | None:
        """The larger network of the family, trained, where this trial selects its weights."""
        trial = self.trial
        if trial.larger is None or trial.init != SELECTION:
            return None
        model, _ = self._build(trial.larger.architecture, train.num_classes)
        finetune(model.to(trial.device), train, val, trial.larger.train, seed=trial.seed)
        return model.cpu()

    def _build(self, architecture: str, num_classes: int) -> tuple[nn.Module, Graph]:
        with seeded(self.trial.seed):
            return build_network(
                architecture,
                num_classes,
                self.trial.images.image_size,
                scalars=self.trial.init == "fixup",
            )


def with_new_head(fresh: nn.Module, trained: nn.Module) -> None:
    """Copies into `fresh` all of `trained` but the classification layer, the last with a weight of
    two dimensions.

    Both are the same architecture; the number of classes may differ (paper section 5.3).
    """
    heads = [
        name
        for name, module in fresh.named_modules()
        if isinstance(weight := getattr(module, "weight", None), Tensor) and weight.dim() >= 2
    ]
    head = heads[-1] + "."
    state = trained.state_dict()
    with torch.no_grad():
        for name, value in fresh.state_dict().items():
            if not name.startswith(head) and name in state and state[name].shape == value.shape:
                value.copy_(state[name])


def _describe(point: FinetuneConfig) -> Row:
    names = ("lr", "weight_decay", "optimizer", "schedule", "steps", "batch_size")
    return {name: getattr(point, name) for name in names}


def _measured(curve: Curve) -> Row:
    return {
        "step": curve.step,
        "val_accuracy": curve.val_accuracy,
        "train_loss": [finite(loss) for loss in curve.train_loss],
        "train_accuracy": [finite(accuracy) for accuracy in curve.train_accuracy],
        "best_val_accuracy": max(curve.val_accuracy),
        "final_val_accuracy": curve.final,
        "diverged": curve.diverged,
        "train_seconds": curve.seconds[-1],
        "steps_per_second": curve.steps_per_second,
    }


def _checkpoint(trial: Trial, work: Path, key: str) -> Path | None:
    if not trial.checkpoints:
        return None
    work.mkdir(parents=True, exist_ok=True)
    return work / f"{key}.checkpoint.pt"


def _weights(work: Path, key: str) -> Path:
    return work / f"{key}.weights.pt"


def _keep_only(model: nn.Module, work: Path, key: str) -> None:
    """Keeps the weights of the best point so far, so that testing the chosen one needs no second
    training.
    """
    path = _weights(work, key)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(model.state_dict(), file)
    with atomic_path(path.with_suffix(".sha256")) as temporary:
        temporary.write_text(sha256(path))
    for other in work.glob("*.weights.*"):
        if other.stem != path.stem:
            other.unlink()


def _is_whole(weights: Path) -> bool:
    """Whether weights are there as they were written."""
    told = weights.with_suffix(".sha256")
    return weights.exists() and told.exists() and told.read_text() == sha256(weights)
