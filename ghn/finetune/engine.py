"""Training one network from a given initialisation, under the paper's protocol (sections 5.1 and
5.2).

Shape legend: B images of a batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ghn.errors import ConfigError, DamagedFileError
from ghn.files import atomic_path
from ghn.finetune.config import FinetuneConfig
from ghn.finetune.data import Images
from ghn.predict.batchnorm import reestimate_batch_norm

"""The grid of section 5.1."""

AUXILIARY_WEIGHT = 0.4
"""Weight of the auxiliary heads' losses of GoogLeNet and Inception-v3, as in the DARTS recipe."""


@dataclass
class Curve:
    """What training looked like, an entry per evaluation: plain lists, ready for JSON and Parquet.

    Attributes:
        step: optimiser steps done.
        val_accuracy: fraction of validation images classified correctly.
        train_loss, train_accuracy: mean over the batches since the last entry (of batches before
            their update); NaN at the first.
        seconds: since the start, evaluations included.
        diverged: the loss became NaN or infinite; training stopped there.
        steps_per_second: of training alone.
    """

    step: list[int] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    diverged: bool = False
    steps_per_second: float = 0.0

    @property
    def final(self) -> float:
        """Validation accuracy at the end."""
        return self.val_accuracy[-1]

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def finetune(
    model: nn.Module,
    train: Images,
    val: Images,
    config: FinetuneConfig,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Curve:
    """Trains `model` in place and measures its validation accuracy along the way.

    Batches, augmentation and dropout hang on `seed` alone, so the same call gives the same curve on
    the same machine. The global random state is left as it was.

    Args:
        checkpoint: where to keep the state at every evaluation; a run that finds one there
            continues from it and ends as if it had not been interrupted. The caller removes it when
            the result is safe.
        on_step: called with the number of finished steps.

    Returns:
        the curve; its first entry (step 0) is the network as it came.

    Raises:
        DamagedFileError: `checkpoint` exists but is of another run.
    """
    device = next(model.parameters()).device
    stops = sorted(
        {stop for stop in config.evaluate_at if 0 < stop < config.steps} | {config.steps}
    )
    model.to(memory_format=torch.channels_last)
    track_running_statistics(model)
    optimizer = _optimizer(model, config)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(config))
    curve = Curve()

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        started, training_time, done = time.perf_counter(), 0.0, 0
        if checkpoint is not None and checkpoint.exists():
            done, curve = _restore(checkpoint, config, seed, model, optimizer, scheduler)
            started -= curve.seconds[-1] if curve.seconds else 0.0
            training_time = done / curve.steps_per_second if curve.steps_per_second else 0.0
        else:
            _record(curve, 0, evaluate(model, val, config, train), math.nan, math.nan, started)
        batches = _endless(train, config, seed, start=done, device=device)
        for stop in stops:
            if stop <= done or curve.diverged:
                continue
            losses, correct, seen = 0.0, 0, 0
            tick = time.perf_counter()
            model.train()
            first = done
            while done < stop:
                x_BCHW, y_B = next(batches)
                loss, logits_BK = _update(model, optimizer, x_BCHW, y_B, config)
                scheduler.step()
                done += 1
                losses += loss
                correct += int((logits_BK.argmax(1) == y_B).sum())
                seen += len(y_B)
                if on_step is not None:
                    on_step(done)
                if not math.isfinite(loss):
                    curve.diverged = True
                    break
            training_time += time.perf_counter() - tick
            curve.steps_per_second = done / training_time
            accuracy = evaluate(model, val, config, train)
            _record(curve, done, accuracy, losses / (done - first), correct / seen, started)
            if checkpoint is not None:
                _save(checkpoint, config, seed, done, curve, model, optimizer, scheduler)
    return curve


@torch.no_grad()
def evaluate(
    model: nn.Module, images: Images, config: FinetuneConfig, statistics: Images | None = None
) -> float:
    """Top-1 accuracy in evaluation mode, as a fraction.

    Running statistics of batch norm are first set to the averages over a few fixed batches of
    `statistics` (training images): neither predicted nor freshly drawn parameters come with any,
    and after a handful of steps the moving averages still remember none. With None the model's own
    are used.
    """
    if statistics is not None:
        estimate_statistics(model, statistics, config.statistics_images, config.batch_size)
    correct = total = 0
    for logits_BK, y_B in _outputs(model, images, config):
        correct += int((logits_BK.argmax(1) == y_B).sum())
        total += len(y_B)
    return correct / total


@torch.no_grad()
def logits(model: nn.Module, images: Images, config: FinetuneConfig) -> Tensor:
    """(N, K) logits of all N images in their order, in evaluation mode, on the CPU."""
    return torch.cat([logits_BK.float().cpu() for logits_BK, _ in _outputs(model, images, config)])


def _outputs(
    model: nn.Module, images: Images, config: FinetuneConfig
) -> Iterator[tuple[Tensor, Tensor]]:
    device = next(model.parameters()).device
    model.eval()
    for x_BCHW, y_B in images.batches(
        config.evaluation_batch, shuffle=False, drop_last=False, device=device
    ):
        with torch.autocast(device.type, torch.bfloat16, enabled=config.amp):
            logits_BK = _logits(model(x_BCHW))[0]
        yield logits_BK, y_B


def track_running_statistics(model: nn.Module) -> None:
    """Gives batch norms made without running statistics (as predicted networks often are) buffers
    for them.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            device = next(model.parameters()).device
            module.track_running_stats = True
            module.register_buffer("running_mean", torch.zeros(module.num_features, device=device))
            module.register_buffer("running_var", torch.ones(module.num_features, device=device))
            module.register_buffer("num_batches_tracked", torch.tensor(0, device=device))


def estimate_statistics(model: nn.Module, images: Images, n_images: int, batch_size: int) -> None:
    """Sets batch norms' running statistics to plain averages over `n_images` fixed images, in
    place.
    """
    batch_size = min(batch_size, n_images, len(images))
    batches = images.batches(batch_size, drop_last=True, device=next(model.parameters()).device)
    reestimate_batch_norm(model, batches, -(-n_images // batch_size))


def _update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x_BCHW: Tensor,
    y_B: Tensor,
    config: FinetuneConfig,
) -> tuple[float, Tensor]:
    """One optimiser step; the loss and the logits are those before it. A loss that is not finite is
    not applied.
    """
    with torch.autocast(x_BCHW.device.type, torch.bfloat16, enabled=config.amp):
        logits_BK, *auxiliary = _logits(model(x_BCHW))
        loss = functional.cross_entropy(logits_BK, y_B, label_smoothing=config.label_smoothing)
        for other_BK in auxiliary:
            loss = loss + AUXILIARY_WEIGHT * functional.cross_entropy(
                other_BK, y_B, label_smoothing=config.label_smoothing
            )
    value = float(loss.detach())
    if math.isfinite(value):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if config.grad_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
    return value, logits_BK.detach()


def _logits(output: Any) -> list[Tensor]:
    """The main head's logits, then the auxiliary heads' that a network in training may return."""
    if isinstance(output, Tensor):
        return [output]
    return [logits for logits in output if isinstance(logits, Tensor)]


def _optimizer(model: nn.Module, config: FinetuneConfig) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        foreach=True,
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


def _endless(
    train: Images, config: FinetuneConfig, seed: int, start: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of epoch after epoch, from batch number `start` on; a set smaller than a batch is one
    batch.
    """
    if not len(train):
        raise ConfigError("the training set is empty")
    batch_size = min(config.batch_size, len(train))
    epoch, start = divmod(start, train.n_batches(batch_size))
    while True:
        yield from train.batches(
            batch_size, seed, epoch, config.augment, start=start, drop_last=True, device=device
        )
        epoch, start = epoch + 1, 0


def _record(
    curve: Curve, step: int, accuracy: float, loss: float, train_accuracy: float, started: float
) -> None:
    curve.step.append(step)
    curve.val_accuracy.append(accuracy)
    curve.train_loss.append(loss)
    curve.train_accuracy.append(train_accuracy)
    curve.seconds.append(time.perf_counter() - started)


def _save(
    path: Path,
    config: FinetuneConfig,
    seed: int,
    done: int,
    curve: Curve,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    state = {
        "config": config.model_dump_json(),
        "seed": seed,
        "done": done,
        "curve": curve.to_dict(),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "random": torch.get_rng_state(),
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _restore(
    path: Path,
    config: FinetuneConfig,
    seed: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> tuple[int, Curve]:
    state = torch.load(path, weights_only=True, map_location=next(model.parameters()).device)
    if state["config"] != config.model_dump_json() or state["seed"] != seed:
        raise DamagedFileError(
            f"{path} is the checkpoint of another run (other settings or seed); remove it to start"
            " anew"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["random"].cpu())
    return int(state["done"]), Curve(**state["curve"])
