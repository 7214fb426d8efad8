"""The training loop of a hypernetwork.

Notable: step t is a function of the weights, the optimizer state and t alone. Images (epoch t //
batches, batch t % batches), architectures, augmentation and dropout are drawn by (seed, t), so a
run that was killed resumes from its last checkpoint and repeats, to the bit, what an uninterrupted
run does on the same device with the same number of threads.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ghn.images import Images
from ghn.models.hypernetwork import GHN
from ghn.train.average import WeightAverage
from ghn.train.callbacks import Callback, StepRecord, Training
from ghn.train.checkpoint import Checkpoints, RunState
from ghn.train.config import TrainConfig
from ghn.train.copying import Copies
from ghn.train.data import Phase, StepData, check_phases, step_data
from ghn.train.distributed import Ranks
from ghn.train.divergence import DivergenceWatch
from ghn.train.evaluation import Evaluate, Evaluation, InParts
from ghn.train.log import JsonLog
from ghn.train.pace import Pace
from ghn.train.precision import arithmetic
from ghn.train.prefetch import Prefetched
from ghn.train.result import TrainResult
from ghn.train.sharding import restore, state_of
from ghn.train.step import MetaBatch
from ghn.train.stopping import stop_requests
from ghn.train.tally import Tally
from ghn.train.update import Outcome, Updates

WEIGHTS_NAME = "ghn.safetensors"


def train(
    config: TrainConfig,
    ghn: GHN,
    meta_batches: Callable[[int], Iterator[MetaBatch]],
    images: Images,
    output_dir: Path,
    *,
    callbacks: Sequence[Callback] = (),
    evaluate: Evaluate | InParts | None = None,
    metric: str = "accuracy",
    ranks: Ranks | None = None,
    phases: Sequence[Phase] = (),
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
        evaluate: from the hypernetwork to metrics, every `evaluate_every` steps and at the end, on
            rank 0; where it is made of parts (`ghn.train.evaluation.InParts`), all ranks are given
            it and share them.
        metric: the entry of the metrics whose largest value marks the best checkpoint.
        ranks: this process among its peers; alone by default.
        phases: stretches at the start of the run with images, networks or batches of their own;
            the rest of the steps have `images`, `meta_batches` and the batch sizes of `config`.
        identity: digests of data and the like; a run resumes only where they are the same.
        metadata: stored with the weights.

    Raises:
        ConfigError: `output_dir` holds a run with another recipe.
        DivergedError: more than `max_skipped` steps in a row could not be taken.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the current step, with a checkpoint written.
    """
    ranks = ranks or Ranks()
    check_phases(phases, config, ranks.world)
    recipe = config.recipe() | dict(identity or {})
    if phases:
        recipe["phases"] = [phase.recipe() for phase in phases]
    run = _Run(config, ghn, Path(output_dir), ranks, recipe, dict(metadata or {}))
    run.evaluation, run.metric = Evaluation(evaluate, ranks), metric
    if ranks.is_main:
        run.callbacks = [JsonLog(run.output_dir), *callbacks]
    last = Phase(config.steps, meta_batches, images, config.batch_size, config.meta_batch_size)
    return run.go(lambda start: step_data(start, [*phases, last], config, ranks.device))


class _Run:
    """The state of a run, and the order of what happens in it."""

    evaluation: Evaluation
    metric = ""
    callbacks: Sequence[Callback] = ()

    def __init__(
        self,
        config: TrainConfig,
        ghn: GHN,
        output_dir: Path,
        ranks: Ranks,
        recipe: dict[str, Any],
        metadata: dict[str, Any],
    ) -> None:
        self.config, self.ranks, self.recipe = config, ranks, recipe
        self.ghn = ghn.to(ranks.device)
        self.output_dir, self.metadata = output_dir, metadata
        self.updates = Updates(self.ghn, config, ranks)
        self.training = Training(self.ghn, self.updates.optimizer, config.steps)
        self.watch, self.copies = DivergenceWatch(), Copies(ranks.device)
        self.average = None if config.ema is None else WeightAverage(self.ghn, config.ema)
        self.checkpoints = Checkpoints(
            output_dir / "checkpoints",
            config.keep_checkpoints,
            self._save_weights,
            config.horizon[1],
        )
        self.tally = Tally(config.max_skipped)
        self.best = -math.inf
        self.metrics: dict[str, float] = {}

    def go(self, data: Callable[[int], Generator[StepData, None, None]]) -> TrainResult:
        """The whole run: resume, steps, the last evaluation, the weights."""
        try:
            self._resume()
            self._tell(lambda callback: callback.on_start(self.training))
            start = self.training.step
            if start < self.config.steps and not self.training.stopping:
                with (
                    arithmetic(self.config, self.ranks.device),
                    stop_requests() as stop,
                    closing(Prefetched(self.copies.begun(data(start)))) as prefetched,
                ):
                    self._steps(map(self.copies.given, prefetched), stop)
            weights = self.output_dir / WEIGHTS_NAME
            self._evaluate()
            if self.ranks.is_main:
                self._save_weights(weights, {"step": self.training.step, "metrics": self.metrics})
            self.ranks.wait()
            best = self.checkpoints.best if self.best > -math.inf else None
            return TrainResult(weights, best, self.metrics, self.tally.skipped, self.tally.left_out)
        finally:
            self._tell(lambda callback: callback.close())

    def _steps(self, data: Iterator[StepData], stop: threading.Event) -> None:
        pace = Pace()
        interrupted = False
        while not (self._over or interrupted):
            with pace.waiting():
                given = next(data)
            outcome = self.updates.take(self.training.step, given)
            if self.average is not None and not outcome.reason:
                self.average.update(self.ghn, self.training.step)
            self.training.step += 1
            architectures = len(given.batch.networks) * self.ranks.world
            record = pace.record(self.training.step, outcome, architectures, len(given.labels_B))
            del given
            self._after_step(record, outcome, pace)
            interrupted, self.training.stopping = self.ranks.any(
                stop.is_set(), self.training.stopping
            )
            with pace.paused():
                self._between_steps(interrupted)
        if interrupted:
            raise KeyboardInterrupt(
                f"stopped after step {self.training.step}; the same command continues"
            )

    def _between_steps(self, interrupted: bool) -> None:
        """Evaluates and writes a checkpoint where it is time to; who has done waits."""
        evaluates = self._is_due(self.config.evaluate_every) and not self._over
        saves = self._is_due(self.config.checkpoint_every) or self._over or interrupted
        saves = saves or self.training.step == self.checkpoints.milestone
        if evaluates:
            self._evaluate()
        if saves:
            self._checkpoint()
        if evaluates or saves:
            self.ranks.wait()

    @property
    def _over(self) -> bool:
        return self.training.step >= self.config.steps or self.training.stopping

    def _is_due(self, every: int) -> bool:
        return bool(every) and self.training.step % every == 0

    def _after_step(self, record: StepRecord, outcome: Outcome, pace: Pace) -> None:
        self._tell(lambda callback: callback.on_step(self.training, record))
        if warning := self.tally.count(outcome):
            self._warn(warning)
        self.tally.check(outcome, record.step, self.output_dir)
        if self._is_due(self.config.log_every) or record.step == self.config.steps:
            report = pace.report()
            self._tell(lambda callback: callback.on_report(self.training, report))
        if not record.skipped and self.ranks.is_main:
            for warning in self.watch.look(record.cross_entropy, record.gradient_norm):
                self._warn(warning)

    def _resume(self) -> None:
        """Goes on from the checkpoint that rank 0 finds: others may see another disk, or none."""
        state = self.ranks.from_main(self._restored)
        self.ghn.train()
        self.ranks.broadcast(self.ghn)
        if self.average is not None:
            self.ranks.broadcast(self.average.ghn)
        if state is None:
            return
        restore(self.updates.optimizer, state["optimizer"])
        self.updates.scaler.load_state_dict(state["scaler"])
        counters = state["counters"]
        self.tally.counters = {name: counters[name] for name in self.tally.counters}
        self.best = counters["best"]
        self.training.step, self.training.stopping = state["step"], bool(counters["stopped"])
        if counters["world"] != self.ranks.world:
            self._warn(
                f"{self.ranks.world} ranks go on with what {counters['world']:.0f} began: sums are"
                " rounded in another order than without the interruption"
            )

    def _restored(self) -> dict[str, Any] | None:
        """Restores the weights, on rank 0, and gives what all ranks need to know."""
        found = self.checkpoints.load(self.recipe, self.config.horizon, self._warn)
        if found is None:
            return None
        state = found.state
        self.ghn.load_state_dict(found.weights if state.trained is None else state.trained)
        if self.average is not None:
            self.average.ghn.load_state_dict(found.weights)
        names = ("step", "optimizer", "scaler", "counters")
        return {name: getattr(state, name) for name in names}

    def _checkpoint(self) -> None:
        optimizer = state_of(self.updates.optimizer)
        if not self.ranks.is_main:
            return
        counters = self.tally.counters | {
            "best": self.best,
            "stopped": float(self.training.stopping),
            "world": float(self.ranks.world),
        }
        state = RunState(
            self.training.step,
            self.recipe,
            self.config.horizon,
            optimizer,
            self.updates.scaler.state_dict(),
            counters,
            None if self.average is None else self.ghn.state_dict(),
        )
        path = self.checkpoints.save(state)
        self._tell(lambda callback: callback.on_checkpoint(self.training, path))

    @property
    def _published(self) -> GHN:
        """The hypernetwork that is evaluated and written: the average, if there is one."""
        return self.ghn if self.average is None else self.average.ghn

    def _evaluate(self) -> None:
        found = self.evaluation.run(self._published)
        self.ghn.train()
        if found is None:
            return
        self.metrics = found
        self._tell(lambda callback: callback.on_evaluation(self.training, self.metrics))
        if (value := self.metrics.get(self.metric, -math.inf)) > self.best:
            self.best = value
            self.checkpoints.save_best(self.training.step, self.metrics)

    def _save_weights(self, path: Path, metadata: Mapping[str, Any]) -> None:
        from ghn.checkpoint import save_checkpoint

        recipe = self.config.model_dump(mode="json")
        save_checkpoint(self._published, path, {**self.metadata, **metadata, "train": recipe})

    def _warn(self, message: str) -> None:
        self._tell(lambda callback: callback.on_warning(self.training, message))

    def _tell(self, event: Callable[[Callback], None]) -> None:
        for callback in self.callbacks:
            event(callback)
