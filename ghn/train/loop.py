"""The training loop of a hypernetwork.

Notable: step t is a function of the weights, the optimizer state and t alone. Images (epoch t //
batches, batch
t % batches), architectures, augmentation and dropout are drawn by (seed, t), so a run that was
killed resumes from its last checkpoint and repeats, to the bit, what an uninterrupted run does on
the same device with the same number of threads.
"""

from __future__ import annotations

import gc
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ghn.errors import GHNError
from ghn.models.batch import GraphBatch
from ghn.models.hypernetwork import GHN
from ghn.train.callbacks import Callback, DivergenceWatch, JsonLog, StepRecord
from ghn.train.checkpoint import Checkpoints, RunState
from ghn.train.config import TrainConfig
from ghn.train.distributed import Ranks
from ghn.train.optimizer import LossScaler, learning_rate, make_optimizer
from ghn.train.pace import Pace
from ghn.train.prefetch import Prefetched
from ghn.train.step import Losses, MetaBatch, meta_batch_losses

WEIGHTS_NAME = "ghn.safetensors"
_SAME_REQUEST_SECONDS = 3.0


class Images(Protocol):
    """What the loop asks of an image data set (`datasets.images.ImageTensors`, `ImageStream`)."""

    def n_batches(self, batch_size: int) -> int:
        """Batches in an epoch."""

    def batches(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        augment: bool,
        *,
        start: int,
        device: torch.device,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from number `start` on."""


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
    run = _Run(
        config,
        ghn,
        images,
        Path(output_dir),
        list(callbacks),
        evaluate,
        metric,
        ranks or Ranks(),
        identity,
        metadata,
    )
    return run.go(meta_batches)


class _Run:
    def __init__(
        self,
        config: TrainConfig,
        ghn: GHN,
        images: Images,
        output_dir: Path,
        callbacks: list[Callback],
        evaluate: Callable[[GHN], Mapping[str, float]] | None,
        metric: str,
        ranks: Ranks,
        identity: Mapping[str, Any] | None,
        metadata: Mapping[str, Any] | None,
    ) -> None:
        self.config, self.ranks, self.images, self.evaluate_fn = config, ranks, images, evaluate
        self.ghn = ghn.to(ranks.device)
        self.output_dir, self.metric, self.metadata = output_dir, metric, dict(metadata or {})
        config.share(ranks.world)  # checks that the meta-batch divides
        self.callbacks: list[Callback] = [JsonLog(output_dir), *callbacks] if ranks.is_main else []
        self.optimizer = make_optimizer(self.ghn, config)
        self.scaler = LossScaler(config, ranks.device)
        self.watch = DivergenceWatch()
        self.checkpoints = Checkpoints(
            output_dir / "checkpoints", config.keep_checkpoints, self._save_weights
        )
        self.recipe = config.recipe() | {"world": ranks.world} | dict(identity or {})
        self.counters = {"skipped": 0.0, "skipped_in_a_row": 0.0, "best": -math.inf}
        self.metrics: dict[str, float] = {}

    def go(self, meta_batches: Callable[[int], Iterator[MetaBatch]]) -> TrainResult:
        start = self._resume()
        steps = self.config.steps
        try:
            self._tell("on_start", start, steps)
            if start < steps:
                with (
                    _stop_requests() as stop,
                    closing(Prefetched(self._data(start, meta_batches(start)))) as data,
                ):
                    self._steps(start, data, stop)
            weights = self.output_dir / WEIGHTS_NAME
            if self.ranks.is_main:
                self._evaluate(steps)
                self._save_weights(weights, {"step": steps, "metrics": self.metrics})
            best = self.checkpoints.best if self.counters["best"] > -math.inf else None
            return TrainResult(weights, best, self.metrics, int(self.counters["skipped"]))
        finally:
            self._tell("close")

    def _data(
        self, start: int, meta_batches: Iterator[MetaBatch]
    ) -> Iterator[tuple[Tensor, Tensor, MetaBatch]]:
        images = self._image_batches(start)
        for batch in meta_batches:
            list(batch.networks)  # a loader may leave it to whoever asks first to build them
            yield *next(images), batch

    def _steps(
        self, start: int, data: Iterator[tuple[Tensor, Tensor, MetaBatch]], stop: threading.Event
    ) -> None:
        config = self.config
        pace = Pace(config.meta_batch_size, config.batch_size)
        for step in range(start, config.steps):
            with pace.waiting():
                images_BCHW, labels_B, batch = next(data)
            record = self._step(step, batch, images_BCHW, labels_B, pace)
            done = step + 1
            self._tell("on_step", record)
            if done % config.log_every == 0 or done == config.steps:
                self._tell("on_report", pace.report())
            if not record.skipped and self.ranks.is_main:
                for warning in self.watch.look(record.cross_entropy, record.gradient_norm):
                    self._tell("on_warning", done, warning)
            if config.evaluate_every and done % config.evaluate_every == 0 and done < config.steps:
                with pace.paused():
                    self._evaluate(done)
            stopping = self._any(stop.is_set())
            if done % config.checkpoint_every == 0 or done == config.steps or stopping:
                with pace.paused():
                    self._checkpoint(done)
            if stopping:
                raise KeyboardInterrupt(f"stopped after step {done}; the same command resumes")

    def _step(
        self, step: int, batch: MetaBatch, images_BCHW: Tensor, labels_B: Tensor, pace: Pace
    ) -> StepRecord:
        """One optimizer step, or a skipped one; all ranks come to the same verdict."""
        config, device = self.config, self.ranks.device
        lr = learning_rate(step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        pending, losses, failure = None, None, ""
        try:
            batch = _on_device(batch, device)
            scale = self.scaler.scale
            losses, pending = meta_batch_losses(
                self.ghn, batch, images_BCHW, labels_B, config, step, scale
            )
        except RuntimeError as error:
            failure = _out_of_memory(error)
        values, failed = self._agree(losses, bool(failure))
        norm = math.nan
        if not failed:
            assert pending is not None
            try:
                pending.run()
            except RuntimeError as error:
                failure = _out_of_memory(error)
            pending = None
            failed = self.ranks.average_gradients(self.ghn.parameters(), bool(failure))
            if not failed:
                norm = self.scaler.step(self.optimizer, config.clip)
        skipped = failed or not math.isfinite(norm)
        self._count(step + 1, skipped, failure, values[0])
        return pace.record(step + 1, values, norm, lr, skipped)

    def _agree(self, losses: Losses | None, failed: bool) -> tuple[list[float], bool]:
        """Mean losses over ranks, and whether any rank failed or has a loss that is not finite."""
        device = self.ranks.device
        numbers = losses.stack() if losses is not None else torch.zeros(4, device=device)
        total = self.ranks.sum(
            torch.cat((numbers, torch.tensor([float(failed)], device=device)))
        ).tolist()
        means = [value / self.ranks.world for value in total[:4]]
        return means, total[4] > 0 or not math.isfinite(means[0])

    def _any(self, flag: bool) -> bool:
        if self.ranks.world == 1:
            return flag
        return bool(self.ranks.sum(torch.tensor(float(flag), device=self.ranks.device)) > 0)

    def _count(self, done: int, skipped: bool, failure: str, loss: float) -> None:
        counters = self.counters
        counters["skipped_in_a_row"] = counters["skipped_in_a_row"] + 1 if skipped else 0
        if not skipped:
            return
        counters["skipped"] += 1
        reason = failure or (
            "out of memory on another rank" if math.isfinite(loss) and self.ranks.world > 1 else ""
        )
        reason = reason or (
            "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        )
        self._tell(
            "on_warning", done, f"step skipped: {reason} ({int(counters['skipped'])} so far)"
        )
        if counters["skipped_in_a_row"] > self.config.max_skipped:
            raise DivergedError(
                f"{int(counters['skipped_in_a_row'])} steps in a row were skipped, the last,"
                f" {done}, because {reason}. Start anew (delete {self.output_dir}) with a lower"
                " train.lr or, if memory is short, with a smaller train.batch_size or"
                " train.meta_batch_size"
            )

    def _image_batches(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        config = self.config
        per_epoch = self.images.n_batches(config.batch_size)
        epoch, start = divmod(step, max(1, per_epoch))
        while True:
            yield from self.images.batches(
                config.batch_size, config.seed, epoch, True, start=start, device=self.ranks.device
            )
            epoch, start = epoch + 1, 0

    def _resume(self) -> int:
        state = self.checkpoints.load(
            self.ghn, self.recipe, lambda message: self._tell("on_warning", 0, message)
        )
        self.ghn.train()
        self.ranks.broadcast(self.ghn)
        if state is None:
            return 0
        self.optimizer.load_state_dict(state.optimizer)
        self.scaler.load_state_dict(state.scaler)
        self.counters |= state.counters
        return state.step

    def _checkpoint(self, done: int) -> None:
        if not self.ranks.is_main:
            return
        state = RunState(
            done,
            self.recipe,
            self.optimizer.state_dict(),
            self.scaler.state_dict(),
            dict(self.counters),
        )
        self._tell("on_checkpoint", done, self.checkpoints.save(state))

    def _evaluate(self, done: int) -> None:
        if not self.ranks.is_main or self.evaluate_fn is None:
            return
        self.ghn.eval()
        with torch.no_grad():
            self.metrics = {
                name: float(value) for name, value in self.evaluate_fn(self.ghn).items()
            }
        self.ghn.train()
        self._tell("on_evaluation", done, self.metrics)
        value = self.metrics.get(self.metric, -math.inf)
        if value > self.counters["best"]:
            self.counters["best"] = value
            self.checkpoints.save_best(done, self.metrics)

    def _save_weights(self, path: Path, metadata: Mapping[str, Any]) -> None:
        from ghn.checkpoint import save_checkpoint

        save_checkpoint(
            self.ghn,
            path,
            {**self.metadata, **metadata, "train": self.config.model_dump(mode="json")},
        )

    def _tell(self, event: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*arguments)


@dataclass(frozen=True)
class _Moved:
    graphs: GraphBatch
    networks: Sequence[nn.Module]
    index: Sequence[int]


def _on_device(batch: MetaBatch, device: torch.device) -> MetaBatch:
    if batch.graphs.device == device:
        return batch
    return _Moved(batch.graphs.to(device, non_blocking=True), batch.networks, batch.index)


def _out_of_memory(error: RuntimeError) -> str:
    """A reason to skip the step, if the error is one of memory; any other error is raised again."""
    message = str(error)
    if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in message:
        raise error
    error.__traceback__ = None  # its frames hold the activations
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return f"out of memory ({message.splitlines()[0][:120]})"


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; a second one interrupts at once. Only in the main
    thread.

    A launcher passes on what the rank has got by itself, so a second one counts after some seconds
    only.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    asked = 0.0

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not stop.is_set():
            asked = time.monotonic()
            stop.set()
        elif time.monotonic() - asked > _SAME_REQUEST_SECONDS:
            raise KeyboardInterrupt

    old = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
