"""The learning rate over time."""

from __future__ import annotations

import math

from ghn.train.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear from `warmup_lr` to `lr` over `warmup_steps`; then half a cosine down to zero at
    `steps`, or `lr` until the last `decay_steps`, over which it falls linearly to zero.

    The original recipe sets the rate once per epoch (5 of 75 epochs are warm-up); ours moves with
    every step.
    """
    if step < config.warmup_steps:
        return config.warmup_lr + (config.lr - config.warmup_lr) * step / config.warmup_steps
    if config.schedule == "constant":
        left = config.steps - step
        return config.lr if left >= config.decay_steps else config.lr * left / config.decay_steps
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    return 0.5 * config.lr * (1 + math.cos(math.pi * progress))
