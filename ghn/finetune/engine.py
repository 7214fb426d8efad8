"""Training one network from a given initialisation, under the paper's protocol (sections 5.1 and
5.2).

Shape legend: B images of a batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional

from ghn.errors import DamagedFileError
from ghn.failures import other_classes, require_logits, require_trainable
from ghn.files import content_digest
from ghn.finetune.checkpoint import read, write
from ghn.finetune.config import FinetuneConfig
from ghn.finetune.curve import Curve
from ghn.finetune.evaluation import (
    autocast,
    evaluate,
    lacks_statistics,
    track_running_statistics,
)
from ghn.finetune.progress import Progress
from ghn.finetune.sharing import Sharing
from ghn.images import Images, endless_batches, require_images
from ghn.outputs import heads
from ghn.randomness import seeded

logger = logging.getLogger(__name__)

AUXILIARY_WEIGHT = 0.4
"""Weight of the auxiliary heads' losses of GoogLeNet and Inception-v3, as in the DARTS recipe."""

LOOK_EVERY = 50
"""Steps after which a loss is read from a GPU, which waits for all that it has been given to do."""


def finetune(
    model: nn.Module,
    train: Images,
    val: Images,
    config: FinetuneConfig,
    *,
    seed: int = 0,
    before: float | None = None,
    checkpoint: Path | None = None,
    on_step: Callable[[int], None] | None = None,
    group: dist.ProcessGroup | None = None,
) -> Curve:
    """Trains `model` in place and measures its validation accuracy along the way.

    Batches, augmentation and dropout hang on `seed` alone, so the same call gives the same curve on
    the same machine. The global random state is left as it was. Running statistics of a network
    that has none of its own (`lacks_statistics`) are estimated before each evaluation; those of a
    trained one are kept, and move on as it trains.

    Args:
        before: validation accuracy of the network as it came, where another run from the same
            parameters has measured it: the curve begins with it.
        checkpoint: where to keep the state at every evaluation; a run that finds one there
            continues from it, whatever values the network has, and ends as if it had not been
            interrupted. A log message says so if that run began from other values. The caller
            removes it when the result is safe.
        on_step: called with the number of finished steps.
        group: of `torch.distributed`: its ranks train the network together, each with its share of
            every batch (which its images' batch norms alone see) and of the validation images.
            All call this with the same arguments; rank 0 reads and writes `checkpoint`.

    Returns:
        the curve; its first entry (step 0) is the network as it came.

    Raises:
        DamagedFileError: `checkpoint` exists but is of another run: other settings, another seed,
            network or number of images.
        ConfigError: a set of images is empty or has classes that the network lacks, all parameters
            are frozen or one has no values, a batch does not divide among the ranks, or the network
            returns no logits.
    """
    require_trainable(model)
    require_images(training=train, validation=val)
    run = _Run(model, train, val, config, seed, Sharing(group))
    stops = {stop for stop in config.evaluate_at if 0 < stop < config.steps} | {config.steps}
    with seeded(seed + run.sharing.rank):  # dropout of other images is another
        if checkpoint is not None and not run.sharing.rank:
            run.began = run.digest()
        if checkpoint is None or not run.restore(checkpoint):
            if before is None:
                run.measure()
            else:
                run.curve.add(0, before, seconds=0.0)
        batches = run.batches()
        for stop in sorted(stops):
            if run.done < stop and not run.curve.diverged:
                run.train_until(stop, batches, on_step)
                if checkpoint is not None:
                    run.save(checkpoint)
    return run.curve


class _Run:
    """A network in training, and all that its checkpoint holds."""

    def __init__(
        self,
        model: nn.Module,
        train: Images,
        val: Images,
        config: FinetuneConfig,
        seed: int,
        sharing: Sharing,
    ) -> None:
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dim() == 4:  # those of three dimensions have another order
                tensor.data = tensor.data.to(memory_format=torch.channels_last)
        self.estimates = lacks_statistics(model)
        track_running_statistics(model)
        self.model, self.train, self.val, self.config, self.seed = model, train, val, config, seed
        self.device = next(model.parameters()).device
        self.sharing, self.shared = sharing, sharing.wrapped(model)
        self.optimizer = _optimizer(model, config)
        self.scaler = GradScaler(self.device.type, enabled=config.amp == "fp16")
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, _schedule(config))
        self.curve, self.done, self.began = Curve(), 0, ""
        self.started, self.training_seconds = time.perf_counter(), 0.0

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches from the current step on; a set smaller than a batch is one batch."""
        return endless_batches(
            self.train,
            min(self.config.batch_size, len(self.train)),
            self.seed,
            start=self.done,
            augment=self.config.augment,
            device=self.device,
        )

    def measure(self, loss: float = math.nan, train_accuracy: float = math.nan) -> None:
        """Adds the validation accuracy of now to the curve."""
        source = self.train if self.estimates else None
        self.sharing.settle(self.model)
        accuracy = evaluate(self.model, self.val, self.config, source, self.sharing)
        seconds = time.perf_counter() - self.started
        self.curve.add(self.done, accuracy, seconds, loss, train_accuracy)

    def train_until(
        self,
        stop: int,
        batches: Iterator[tuple[Tensor, Tensor]],
        on_step: Callable[[int], None] | None,
    ) -> None:
        """Trains up to step `stop`, or until the loss is not finite, and measures."""
        progress, seen, first = Progress(self.device), 0, self.done
        tick = time.perf_counter()
        if self.sharing.rank:  # what it has drawn before is in no checkpoint
            torch.manual_seed(hash((self.seed, self.sharing.rank, self.done)))
        self.model.train()
        while self.done < stop and not self.curve.diverged:
            x_BCHW, y_B = self.sharing.part(*next(batches))
            loss, logits_BK = self._loss(x_BCHW, y_B)
            look = self.device.type == "cpu" or (self.done + 1 - first) % LOOK_EVERY == 0
            mean = self.sharing.mean(loss.detach())
            self.curve.diverged = progress.add(mean, logits_BK, y_B, look)
            if not self.curve.diverged:
                self._apply(loss, progress)
            self.scheduler.step()
            self.done += 1
            seen += len(y_B) * self.sharing.world
            if on_step is not None:
                on_step(self.done)
        average, correct, good = progress.read(self.sharing)
        self.training_seconds += time.perf_counter() - tick
        self.curve.steps_per_second = self.done / self.training_seconds
        if good < self.done - first:  # the step that diverged is the last that counts
            self.curve.diverged = True
            seen, self.done = round(seen * (good + 1) / (self.done - first)), first + good + 1
        self.measure(average, correct / seen)

    def _loss(self, x_BCHW: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch and the main head's logits, before the step."""
        config = self.config
        with autocast(config, self.device):
            logits_BK, *auxiliary = heads(self.shared(x_BCHW))
            require_logits(logits_BK)
            if y_B.device.type == "cpu" and int(y_B.max()) >= logits_BK.shape[1]:
                raise other_classes(logits_BK.shape[1])
            loss = functional.cross_entropy(logits_BK, y_B, label_smoothing=config.label_smoothing)
            for other_BK in auxiliary:
                loss = loss + AUXILIARY_WEIGHT * functional.cross_entropy(
                    other_BK, y_B, label_smoothing=config.label_smoothing
                )
        return loss, logits_BK.detach()

    def _apply(self, loss: Tensor, progress: Progress) -> None:
        """The step. On a GPU it does not happen if a loss was not finite, though no one looks: the
        optimizer, fused, is told so there.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.config.grad_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        if self.device.type != "cpu" and not self.scaler.is_enabled():
            self.optimizer.found_inf = progress.bad  # type: ignore[attr-defined]
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def identity(self) -> dict[str, Any]:
        """What a checkpoint has in common with the run that goes on from it, in words."""
        return {
            "settings": self.config.model_dump_json(),
            "seed": self.seed,
            "network": {name: list(value.shape) for name, value in _tensors(self.model).items()},
            "number of training images": len(self.train),
            "number of validation images": len(self.val),
        }

    def digest(self) -> str:
        """Of the values that the network has."""
        tensors = {name: value.cpu().contiguous() for name, value in _tensors(self.model).items()}
        return content_digest(tensors, "")

    def save(self, path: Path) -> None:
        """Writes a checkpoint, on rank 0."""
        if self.sharing.rank:
            return
        state = {
            "run": self.identity(),
            "began": self.began,
            "done": self.done,
            "curve": self.curve.to_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "estimates": self.estimates,
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        write(path, state)

    def restore(self, path: Path) -> bool:
        """Goes on from a checkpoint; whether there is one.

        Raises:
            DamagedFileError: it is of another run.
        """
        state = self.sharing.from_first(None if self.sharing.rank else read(path, self.device))
        if state is None:
            return False
        known = state.get("run", {})  # older versions have none
        if other := [what for what, value in self.identity().items() if known.get(what) != value]:
            raise DamagedFileError(
                f"{path} is the checkpoint of another run (other {', '.join(other)}); remove it to"
                " start anew"
            )
        if not self.sharing.rank and state["began"] != self.began:
            logger.warning("%s began from other values of the network, and goes on with them", path)
        self.began = state["began"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        if not self.sharing.rank:
            torch.set_rng_state(state["random"].cpu())
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.device)
        self.estimates = state["estimates"]
        self.done, self.curve = int(state["done"]), Curve(**state["curve"])
        if self.curve.seconds:
            self.started -= self.curve.seconds[-1]
        if self.curve.steps_per_second:
            self.training_seconds = self.done / self.curve.steps_per_second
        return True


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict().items()
    return {name: value for name, value in state if isinstance(value, Tensor)}


def _optimizer(model: nn.Module, config: FinetuneConfig) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = parameters[0].device.type == "cuda"
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        foreach=not fused,
        fused=fused,
    )


def _schedule(config: FinetuneConfig) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < config.warmup:
            return (step + 1) / (config.warmup + 1)
        progress = (step - config.warmup) / max(config.steps - config.warmup, 1)
        if config.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        if config.schedule == "step":
            return 0.1 ** int(3 * min(step / max(config.steps, 1), 0.999))
        return 1.0

    return factor
