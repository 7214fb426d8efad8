"""Carries trials out: every point of the grid trained, the best on validation tested, all of it
kept on disk.

A finished point is kept under its key (`flows.trials.spec`), so a killed stage repeats nothing that
was finished, and a longer grid or another experiment that asks for the same points finds them. The
test set is looked at for the chosen point only.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from datasets.images import ImageStream, ImageTensors
from flows.compute.fanout import FanOut, fan_out
from flows.networks.build import build_network
from flows.networks.targets import split_of
from flows.rows.results import Row, digest, finite, identity
from flows.settings import paths
from flows.trials.images import trial_images
from flows.trials.initialise import hypernetwork, initialise, is_hypernetwork, source
from flows.trials.spec import Trial
from ghn.files import atomic_path
from ghn.finetune import Curve, FinetuneConfig, evaluate, finetune, logits, track_running_statistics
from ghn.graph import Graph


def run_trials(
    trials: Sequence[Trial],
    config: FanOut | None = None,
    *,
    title: str = "fine-tuning",
    cache: Path = paths.CACHE / "trials",
) -> list[Row]:
    """The rows of all trials, finished ones from the cache and the others by workers; sorted, none
    missing.

    A trial that fails for want of something (an unknown architecture, memory, a shape) gives a row
    with its error.

    Raises:
        GHNError: a hypernetwork that is needed is missing or damaged, so that none of its trials
            could run.
    """
    rows: list[Row] = []
    jobs: list[Job] = []
    for trial in trials:
        job = Job(trial, trial.data_hash(), cache)
        if (finished := job.finished()) is None:
            jobs.append(job)
        else:
            rows += finished
    if len(jobs) < len(trials):
        tqdm.write(f"{title}: {len(trials) - len(jobs)} of {len(trials)} trials are there already")
    for init in dict.fromkeys(job.trial.init for job in jobs if is_hypernetwork(job.trial.init)):
        hypernetwork(source(init))
    for result in (
        fan_out(_run_or_say_why, jobs, config, describe=str, failed=_failed, title=title)
        if jobs
        else ()
    ):
        rows += result
    order = {
        (trial.architecture, trial.init, trial.seed): place for place, trial in enumerate(trials)
    }
    rows.sort(
        key=lambda row: (order[row["architecture"], row["ghn"], row["seed"]], row.get("lr", 0.0))
    )
    return rows


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
    def work(self) -> Path:
        """Directory of what a killed trial leaves for the next try."""
        return self.cache / f"trial-{digest(list(self.points))}"

    @property
    def done(self) -> Path:
        """The file with the rows of the finished trial."""
        return self.work.with_suffix(".json")

    def finished(self) -> list[Row] | None:
        """The rows, if the trial was run before."""
        if not self.done.exists():
            return None
        rows: list[Row] = json.loads(self.done.read_text())
        return rows


def _run_or_say_why(job: Job) -> list[Row]:
    try:
        return run_trial(job)
    except Exception as error:  # not every exception survives the way between processes
        return _failed(job, f"{type(error).__name__}: {error}"[:500])


def run_trial(job: Job) -> list[Row]:
    """All grid points of one trial, the chosen one tested."""
    trial, cache, work = job.trial, job.cache, job.work
    if (finished := job.finished()) is not None:
        return finished
    train, val, test = trial_images(trial.images)
    start = _Start(trial, train)
    rows: dict[str, Row] = {}
    for key, point in job.points.items():
        path = cache / key[:2] / f"{key}.json"
        if path.exists():
            rows[key] = json.loads(path.read_text())
            continue
        model = start.model()
        curve = finetune(
            model, train, val, point, seed=trial.seed, checkpoint=_checkpoint(trial, work, key)
        )
        if all(curve.final > row["final_val_accuracy"] for row in rows.values()):
            _keep_only(model, work, key)
        row = {**_describe(point), **_measured(curve), "init_seconds": start.seconds}
        _write_json(path, row)
        rows[key] = row
    chosen = max(rows, key=lambda key: rows[key]["final_val_accuracy"])
    model = start.model()
    if (weights := _weights(work, chosen)).exists():
        model.load_state_dict(torch.load(weights, weights_only=True, map_location=trial.device))
    else:  # the row came from another grid's cache, without weights
        finetune(model, train, val, job.points[chosen], seed=trial.seed)
    shared = {
        **identity(
            trial.architecture, split_of(trial.architecture), trial.init, trial.seed, job.data_hash
        ),
        "images": trial.images.name,
        "n_train": len(train),
        "n_val": len(val),
        "n_test": len(test),
        "pretrain": None if trial.pretrain is None else f"{trial.pretrain.steps} steps",
        "trial": work.name,
    }
    result = [{**shared, **row, "selected": key == chosen} for key, row in rows.items()]
    for row in result:
        row["test_accuracy"] = (
            evaluate(model, test, job.points[chosen]) if row["selected"] else None
        )
        if row["selected"] and trial.keep_logits:
            row["logits"] = logits(model, test, job.points[chosen]).flatten().tolist()
            row["labels"] = test.labels.tolist()
    _write_json(job.done, result)
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
            track_running_statistics(
                self._model
            )  # as in training, so that trained weights fit into a copy
        return copy.deepcopy(self._model).to(self.trial.device)

    def _make(self) -> nn.Module:
        trial, train = self.trial, self.train
        source, held_out, _ = trial_images(trial.source_images or trial.images)
        model, graph = self._build(source.num_classes)
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
        )
        if trial.pretrain is not None:
            model.to(trial.device)
            finetune(model, source, held_out, trial.pretrain, seed=trial.seed)
            model.cpu()
        if trial.source_images is None:
            return model
        fresh, _ = self._build(train.num_classes)
        with_new_head(fresh, model)
        return fresh

    def _build(self, num_classes: int) -> tuple[nn.Module, Graph]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.trial.seed)
            return build_network(
                self.trial.architecture,
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
    with atomic_path(_weights(work, key)) as temporary:
        torch.save(model.state_dict(), temporary)
    for other in work.glob("*.weights.pt"):
        if other != _weights(work, key):
            other.unlink()


def _write_json(path: Path, value: Any) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value))


def _failed(job: Job, error: Exception | str) -> list[Row]:
    """The row of a trial that could not be done."""
    trial = job.trial
    head = identity(
        trial.architecture,
        split_of(trial.architecture),
        trial.init,
        trial.seed,
        job.data_hash,
        error,
    )
    return [head | {"images": trial.images.name}]
