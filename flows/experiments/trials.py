"""Trials: one network from one initialisation, trained at every point of a grid, chosen on validation, tested once.

A trial is (architecture, initialisation, seed) with its data and grid; each of its grid points is a row with a curve. A
finished point is kept on disk under a digest of all it depends on, so a killed stage repeats nothing that was
finished, and a longer grid or another experiment that asks for the same points finds them. The test set is looked at
for the chosen point only.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from tqdm import tqdm

from datasets.images import ImageStream, ImageTensors, load, stream
from flows import paths
from flows.experiments.initialise import hypernetwork, initialise, is_hypernetwork, source
from flows.experiments.networks import build_network, split_of
from flows.fanout import FanOut, fan_out
from flows.results import Row, code_digest, digest, finite, identity
from ghn.baselines import GradInitConfig, MetaInitConfig
from ghn.errors import GHNError
from ghn.files import atomic_path, sha256
from ghn.finetune import Curve, FinetuneConfig, evaluate, finetune, logits, stratified_order, track_running_statistics
from ghn.graph import Graph

COLUMNS: dict[str, pa.DataType] = {
    "images": pa.string(),
    "lr": pa.float64(),
    "weight_decay": pa.float64(),
    "optimizer": pa.string(),
    "schedule": pa.string(),
    "steps": pa.int64(),
    "batch_size": pa.int64(),
    "step": pa.list_(pa.int64()),
    "val_accuracy": pa.list_(pa.float64()),
    "train_loss": pa.list_(pa.float64()),
    "train_accuracy": pa.list_(pa.float64()),
    "best_val_accuracy": pa.float64(),
    "final_val_accuracy": pa.float64(),
    "selected": pa.bool_(),
    "test_accuracy": pa.float64(),
    "n_train": pa.int64(),
    "n_val": pa.int64(),
    "n_test": pa.int64(),
    "diverged": pa.bool_(),
    "init_seconds": pa.float64(),
    "train_seconds": pa.float64(),
    "steps_per_second": pa.float64(),
    "pretrain": pa.string(),
    "trial": pa.string(),
    "logits": pa.list_(pa.float32()),
    "labels": pa.list_(pa.int64()),
}
"""Columns of a row besides `flows.results.IDENTITY`; accuracies are fractions."""

_CODE = ("ghn/finetune", "ghn/baselines", "flows/experiments/trials.py", "flows/experiments/initialise.py")


class ImagesSpec(BaseModel):
    """Which images a trial trains, chooses and tests on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    image_size: int = 32
    root: str | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0
    few_shot: int | None = Field(default=None, ge=2, description="labels in all, for training and choices together")
    few_shot_held_out: float = Field(default=0.2, gt=0, lt=1, description="share of these that choices are made on")
    max_train: int | None = Field(default=None, ge=1)
    max_val: int | None = Field(default=None, ge=1)
    max_test: int | None = Field(default=None, ge=1)
    stream: bool = Field(
        default=False, description="training images that do not fit in memory: decoded as they are read"
    )
    workers: int = Field(default=0, ge=0, description="decoding processes of the stream")


class Grid(BaseModel):
    """The points that every initialisation is tuned over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: tuple[float, ...] = (0.1, 0.01)
    weight_decay: tuple[float, ...] = (3e-5,)
    optimizer: tuple[str, ...] = ("sgd",)

    def points(self, base: FinetuneConfig) -> list[FinetuneConfig]:
        """One configuration per point."""
        names = ("lr", "weight_decay", "optimizer")
        values = product(self.lr, self.weight_decay, self.optimizer)
        return [FinetuneConfig(**{**base.model_dump(), **dict(zip(names, point, strict=True))}) for point in values]


class Trial(BaseModel):
    """All that a trial's rows depend on, but the content of files, which `key` adds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    init: str
    seed: int
    images: ImagesSpec
    grid: Grid = Grid()
    finetune: FinetuneConfig = FinetuneConfig()
    beta: float = 1e-5
    gradinit: GradInitConfig = GradInitConfig()
    metainit: MetaInitConfig = MetaInitConfig()
    source_images: ImagesSpec | None = Field(default=None, description="transfer: what the hypernetwork was trained on")
    pretrain: FinetuneConfig | None = Field(default=None, description="transfer: training on the source first")
    checkpoints: bool = Field(default=False, description="keep the state of a point at every evaluation")
    keep_logits: bool = Field(default=False, description="the chosen row has its logits on the test images")
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.architecture} from {self.init}, seed {self.seed}"

    def data_hash(self) -> str:
        """Digest of the images and of the hypernetwork."""
        contents = [weights_digest(source(self.init))]
        contents += [_images_digest(spec) for spec in (self.images, self.source_images) if spec is not None]
        return digest(*contents)

    def keys(self, data_hash: str) -> dict[str, FinetuneConfig]:
        """The points of the grid by the digest of everything that a point's row depends on.

        The other points of the grid do not enter.
        """
        apart = {"grid", "finetune", "device", "checkpoints"}
        apart |= {name for name in ("gradinit", "metainit") if name != self.init}
        settings = self.model_dump(mode="json", exclude=apart)
        common = (settings, data_hash, code_digest(*_CODE))
        return {digest(*common, point.model_dump(mode="json")): point for point in self.grid.points(self.finetune)}


def run_trials(
    trials: Sequence[Trial],
    config: FanOut | None = None,
    *,
    title: str = "fine-tuning",
    cache: Path = paths.CACHE / "trials",
) -> list[Row]:
    """The rows of all trials, finished ones from the cache and the others by workers; sorted, none missing.

    A trial that fails for want of something (an unknown architecture, memory, a shape) gives a row with its error.

    Raises:
        GHNError: a hypernetwork is missing or damaged, so that none of its trials could run.
    """
    for init in dict.fromkeys(trial.init for trial in trials if is_hypernetwork(trial.init)):
        hypernetwork(source(init))
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
    for result in fan_out(_run_or_say_why, jobs, config, describe=str, failed=_failed, title=title) if jobs else ():
        rows += result
    order = {(trial.architecture, trial.init, trial.seed): place for place, trial in enumerate(trials)}
    rows.sort(key=lambda row: (order[row["architecture"], row["ghn"], row["seed"]], row.get("lr", 0.0)))
    return rows


@dataclass(frozen=True)
class Job:
    """A trial with the digest of its data, which the process that hands out trials computes once for all of them."""

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
        curve = finetune(model, train, val, point, seed=trial.seed, checkpoint=_checkpoint(trial, work, key))
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
        **identity(trial.architecture, split_of(trial.architecture), trial.init, trial.seed, job.data_hash),
        "images": trial.images.name,
        "n_train": len(train),
        "n_val": len(val),
        "n_test": len(test),
        "pretrain": None if trial.pretrain is None else f"{trial.pretrain.steps} steps",
        "trial": work.name,
    }
    result = [{**shared, **row, "selected": key == chosen} for key, row in rows.items()]
    for row in result:
        row["test_accuracy"] = evaluate(model, test, job.points[chosen]) if row["selected"] else None
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
            track_running_statistics(self._model)  # as in training, so that trained weights fit into a copy
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
                self.trial.architecture, num_classes, self.trial.images.image_size, scalars=self.trial.init == "fixup"
            )


def with_new_head(fresh: nn.Module, trained: nn.Module) -> None:
    """Copies into `fresh` all of `trained` but the classification layer, the last with a weight of two dimensions.

    Both are the same architecture; the number of classes may differ (paper section 5.3).
    """
    heads = [
        name
        for name, module in fresh.named_modules()
        if isinstance(weight := getattr(module, "weight", None), Tensor) and weight.dim() >= 2
    ]
    head = heads[-1] + "."
    state = {name: value for name, value in trained.state_dict().items() if not name.startswith(head)}
    shapes = {name: value.shape for name, value in fresh.state_dict().items()}
    fresh.load_state_dict(
        {name: value for name, value in state.items() if shapes.get(name) == value.shape}, strict=False
    )


def weights_digest(location: str) -> str:
    """Of a file's content; of anything else (a baseline, a registry version) its name."""
    path = Path(location)
    if not path.is_file():
        return location
    status = path.stat()
    return _file_digest(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _file_digest(path: Path, _mtime_ns: int, _size: int) -> str:
    return sha256(path)


@lru_cache(maxsize=4)
def trial_images(spec: ImagesSpec) -> tuple[ImageTensors | ImageStream, ImageTensors, ImageTensors]:
    """Training, validation and test images of `spec`; once per process.

    In a few-shot setting the held-out images for choices are among the few labels (Zhai et al., 2019: 800 and 200).
    """

    def read(split: str) -> ImageTensors:
        fractions = {"val_fraction": spec.val_fraction, "test_fraction": spec.test_fraction}
        return load(spec.name, spec.root, split, spec.image_size, **fractions, seed=spec.seed, cache=paths.IMAGES)

    def cut(images: ImageTensors, limit: int | None) -> ImageTensors:
        if limit is None or len(images) <= limit:
            return images
        return images.subset(stratified_order(images.labels, spec.seed)[:limit])

    if spec.stream:
        streamed = stream(
            spec.name,
            spec.root,
            "train",
            spec.image_size,
            val_fraction=spec.val_fraction,
            seed=spec.seed,
            workers=spec.workers,
        )
        return streamed, cut(read("val"), spec.max_val), cut(read("test"), spec.max_test)
    train, val, test = (read(split) for split in ("train", "val", "test"))
    if spec.few_shot is not None:
        few = train.few_shot(spec.few_shot, spec.seed)
        order = stratified_order(few.labels, spec.seed)
        held_out = round(spec.few_shot * spec.few_shot_held_out)
        train, val = few.subset(order[held_out:]), few.subset(order[:held_out])
    return cut(train, spec.max_train), cut(val, spec.max_val), cut(test, spec.max_test)


def data_available(spec: ImagesSpec) -> str | None:
    """None if the images of `spec` can be loaded, else why not."""
    try:
        trial_images(spec)
    except (GHNError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None


@lru_cache(maxsize=64)
def _images_digest(spec: ImagesSpec) -> str:
    train, *others = trial_images(spec)
    of_train = train.digest if isinstance(train, ImageTensors) else train.table.fingerprint()
    return digest([of_train, *(part.digest for part in others)])


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
    """Keeps the weights of the best point so far, so that testing the chosen one needs no second training."""
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
    head = identity(trial.architecture, split_of(trial.architecture), trial.init, trial.seed, job.data_hash, error)
    return [head | {"images": trial.images.name}]
