"""The training loop of a hypernetwork.

Notable: step t is a function of the weights, the optimizer state and t alone. Images (epoch t //
batches, batch t % batches), architectures, augmentation and dropout are drawn by (seed, t), so a
run that was killed resumes from its last checkpoint and repeats, to the bit, what an uninterrupted
run does on the same device with the same number of threads.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ghn.errors import GHNError
from ghn.images import Images
from ghn.models.hypernetwork import GHN
from ghn.train.callbacks import Callback, StepRecord, Training
from ghn.train.checkpoint import Checkpoints, RunState
from ghn.train.config import TrainConfig
from ghn.train.data import StepData, step_data
from ghn.train.distributed import Ranks
from ghn.train.divergence import DivergenceWatch
from ghn.train.log import JsonLog
from ghn.train.pace import Pace
from ghn.train.prefetch import Prefetched
from ghn.train.step import MetaBatch
from ghn.train.stopping import stop_requests
from ghn.train.update import Outcome, Updates

WEIGHTS_NAME = "ghn.safetensors"


class DivergedError(GHNError):
    """Training cannot go on: too many steps in a row had no finite loss or did not fit into
    memory.
    """


@dataclass(frozen=True)
class TrainResult:
    """Outcome of a run.

    Attributes:
        weights: the final hypernetwork.
        best: the weights with the best metric, if it was evaluated.
        metrics: of the last evaluation.
        skipped: steps left out.
    """

    weights: Path
    best: Path | None
    metrics: dict[str, float]
    skipped: int


def train(
    config: TrainConfig,
    ghn: GHN,
    meta_batches: Callable[[int], Iterator[MetaBatch]],
    images: Images,
    output_dir: Path,
    *,
    callbacks: Sequence[Callback] = (),
    evaluate: Callable[[GHN], Mapping[str, float]] | None = None,
    metric: str = "accuracy",
    ranks: Ranks | None = None,
    identity: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Trains `ghn` in place, resuming from `output_dir` if a run was interrupted there.

    Args:
        config: the recipe.
        ghn: the hypernetwork (`ghn.models.GHN`).
        meta_batches: from a step number to an endless iterator of this rank's share of the
            meta-batches from it on.
        images: training images, the same on all ranks.
        output_dir: gets checkpoints, logs and at the end `ghn.safetensors`.
        callbacks: watchers, called on rank 0.
        evaluate: from the hypernetwork to metrics, on rank 0; called every `evaluate_every` steps
            and at the end.
        metric: the entry of the metrics whose largest value marks the best checkpoint.
        ranks: this process among its peers; alone by default.
        identity: digests of data and the like; a run resumes only where they are the same.
        metadata: stored with the weights.

    Raises:
        ConfigError: `output_dir` holds a run with another recipe.
        DivergedError: more than `max_skipped` steps in a row could not be taken.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the current step, with a checkpoint written.
    """
    ranks = ranks or Ranks()
    run = _Run(config, ghn, Path(output_dir), ranks, dict(identity or {}), dict(metadata or {}))
    run.evaluate_fn, run.metric = evaluate, metric
    if ranks.is_main:
        run.callbacks = [JsonLog(run.output_dir), *callbacks]
    return run.go(lambda start: step_data(start, config, images, meta_batches, ranks.device))


class _Run:
    """The state of a run, and the order of what happens in it."""

    evaluate_fn: Callable[[GHN], Mapping[str, float]] | None = None
    metric = ""
    callbacks: Sequence[Callback] = ()

    def __init__(
        self,
        config: TrainConfig,
        ghn: GHN,
        output_dir: Path,
        ranks: Ranks,
        identity: dict[str, Any],
        metadata: dict[str, Any],
    ) -> None:
        config.share(ranks.world)  # checks that the meta-batch divides
        self.config, self.ranks = config, ranks
        self.ghn = ghn.to(ranks.device)
        self.output_dir, self.metadata = output_dir, metadata
        self.updates = Updates(self.ghn, config, ranks)
        self.training = Training(self.ghn, self.updates.optimizer, config.steps)
        self.watch = DivergenceWatch()
        self.checkpoints = Checkpoints(
            output_dir / "checkpoints", config.keep_checkpoints, self._save_weights
        )
        self.recipe = config.recipe() | {"world": ranks.world} | identity
        self.counters = {"skipped": 0.0, "skipped_in_a_row": 0.0, "best": -math.inf}
        self.metrics: dict[str, float] = {}

    def go(self, data: Callable[[int], Iterator[StepData]]) -> TrainResult:
        """The whole run: resume, steps, the last evaluation, the weights."""
        try:
            self._resume()
            self._tell(lambda callback: callback.on_start(self.training))
            start = self.training.step
            if start < self.config.steps and not self.training.stopping:
                with stop_requests() as stop, closing(Prefetched(data(start))) as prefetched:
                    self._steps(prefetched, stop)
            weights = self.output_dir / WEIGHTS_NAME
            if self.ranks.is_main:
                self._evaluate()
                self._save_weights(weights, {"step": self.training.step, "metrics": self.metrics})
            best = self.checkpoints.best if self.counters["best"] > -math.inf else None
            return TrainResult(weights, best, self.metrics, int(self.counters["skipped"]))
        finally:
            self._tell(lambda callback: callback.close())

    def _steps(self, data: Iterator[StepData], stop: threading.Event) -> None:
        pace = Pace()
        interrupted = False
        while not (self._over or interrupted):
            with pace.waiting():
                given = next(data)
            outcome = self.updates.take(self.training.step, given)
            self.training.step += 1
            architectures = len(given.batch.networks) * self.ranks.world
            record = pace.record(self.training.step, outcome, architectures, len(given.labels_B))
            del given
            self._after_step(record, outcome, pace)
            interrupted, self.training.stopping = self.ranks.any(
                stop.is_set(), self.training.stopping
            )
            with pace.paused():
                if self._is_due(self.config.evaluate_every) and not self._over:
                    self._evaluate()
                if self._is_due(self.config.checkpoint_every) or self._over or interrupted:
                    self._checkpoint()
        if interrupted:
            raise KeyboardInterrupt(
                f"stopped after step {self.training.step}; the same command continues"
            )

    @property
    def _over(self) -> bool:
        return self.training.step >= self.config.steps or self.training.stopping

    def _is_due(self, every: int) -> bool:
        return bool(every) and self.training.step % every == 0

    def _after_step(self, record: StepRecord, outcome: Outcome, pace: Pace) -> None:
        self._tell(lambda callback: callback.on_step(self.training, record))
        self._count(outcome)
        if self._is_due(self.config.log_every) or record.step == self.config.steps:
            report = pace.report()
            self._tell(lambda callback: callback.on_report(self.training, report))
        if not record.skipped and self.ranks.is_main:
            for warning in self.watch.look(record.cross_entropy, record.gradient_norm):
                self._warn(warning)

    def _count(self, outcome: Outcome) -> None:
        """Counts skipped steps, and gives up after too many in a row."""
        counters, done = self.counters, self.training.step
        counters["skipped_in_a_row"] = counters["skipped_in_a_row"] + 1 if outcome.reason else 0
        if not outcome.reason:
            return
        counters["skipped"] += 1
        self._warn(f"step skipped: {outcome.reason} ({int(counters['skipped'])} so far)")
        if counters["skipped_in_a_row"] > self.config.max_skipped:
            raise DivergedError(
                f"{int(counters['skipped_in_a_row'])} steps in a row were skipped, the last,"
                f" {done}, because {outcome.reason}. Start anew (delete {self.output_dir}) with a"
                " lower train.lr or, if memory is short, with a smaller train.batch_size or"
                " train.meta_batch_size"
            )

    def _resume(self) -> None:
        state = self.checkpoints.load(self.ghn, self.recipe, self._warn)
        self.ghn.train()
        self.ranks.broadcast(self.ghn)
        if state is None:
            return
        self.updates.optimizer.load_state_dict(state.optimizer)
        self.updates.scaler.load_state_dict(state.scaler)
        self.counters |= state.counters
        self.training.step = state.step
        self.training.stopping = bool(self.counters.get("stopped"))

    def _checkpoint(self) -> None:
        if not self.ranks.is_main:
            return
        stopped = {"stopped": 1.0} if self.training.stopping else {}
        state = RunState(
            self.training.step,
            self.recipe,
            self.updates.optimizer.state_dict(),
            self.updates.scaler.state_dict(),
            self.counters | stopped,
        )
        path = self.checkpoints.save(state)
        self._tell(lambda callback: callback.on_checkpoint(self.training, path))

    def _evaluate(self) -> None:
        if not self.ranks.is_main or self.evaluate_fn is None:
            return
        self.ghn.eval()
        with torch.no_grad():
            found = self.evaluate_fn(self.ghn)
        self.ghn.train()
        self.metrics = {name: float(value) for name, value in found.items()}
        self._tell(lambda callback: callback.on_evaluation(self.training, self.metrics))
        value = self.metrics.get(self.metric, -math.inf)
        if value > self.counters["best"]:
            self.counters["best"] = value
            self.checkpoints.save_best(self.training.step, self.metrics)

    def _save_weights(self, path: Path, metadata: Mapping[str, Any]) -> None:
        from ghn.checkpoint import save_checkpoint

        recipe = self.config.model_dump(mode="json")
        save_checkpoint(self.ghn, path, {**self.metadata, **metadata, "train": recipe})

    def _warn(self, message: str) -> None:
        self._tell(lambda callback: callback.on_warning(self.training, message))

    def _tell(self, event: Callable[[Callback], None]) -> None:
        for callback in self.callbacks:
            event(callback)
