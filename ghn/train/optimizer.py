"""AdamW, and the loss scale of mixed precision."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from ghn.train.config import TrainConfig
from ghn.train.sharding import sharded


def make_optimizer(ghn: nn.Module, config: TrainConfig, world: int = 1) -> torch.optim.Optimizer:
    """AdamW over all parameters, one fused kernel per step; if the recipe says so, each of `world`
    ranks keeps its share of the moments.
    """
    options: dict[str, Any] = {
        "lr": config.lr,
        "betas": config.betas,
        "weight_decay": config.weight_decay,
        "fused": True,
    }
    if config.shard_optimizer and world > 1:
        return sharded(ghn.parameters(), options)
    return torch.optim.AdamW(ghn.parameters(), **options)


class LossScaler:
    """Loss scaling for fp16 with a floor; without fp16 it does nothing.

    Attributes:
        scale: the factor on the loss. A number, so that it is not read from a device in each step.

    A scale that fell far, after a run of overflows, would flush small gradients to zero for
    thousands of steps; the floor of 1024 and growth every 100 steps keep training of large
    hypernetworks stable.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self._floor = float(config.amp_scale_floor)
        self._scaler = GradScaler(
            device.type,
            init_scale=max(65536.0, config.amp_scale_floor),
            growth_interval=config.amp_growth_interval,
            enabled=config.amp == "fp16",
        )
        self._one = torch.ones((), device=device)
        self._scaler.scale(self._one)  # creates the scale on the device
        self.scale = self._scaler.get_scale()

    def step(self, optimizer: torch.optim.Optimizer, clip: float) -> float:
        """Unscales and clips the gradients, takes a step unless they overflowed, adjusts the scale.

        Waits for the device once.

        Returns:
            The norm of the gradient before clipping; not finite if the step was not taken.
        """
        self._scaler.unscale_(optimizer)
        parameters = [
            parameter for group in optimizer.param_groups for parameter in group["params"]
        ]
        norm = nn.utils.clip_grad_norm_(parameters, clip, foreach=True)
        if not self._scaler.is_enabled():
            found = float(norm)
            if math.isfinite(found):
                optimizer.step()
            return found
        self._scaler.step(optimizer)  # a fused optimizer looks for overflows on the device
        self._scaler.update()
        values: list[float] = torch.stack((norm, self._scaler.scale(self._one))).tolist()
        found, self.scale = values
        if self.scale < self._floor:
            self._scaler.update(self._floor)
            self.scale = self._floor
        return float(found)

    def state_dict(self) -> dict[str, float]:
        """Scale and growth counter."""
        return dict(self._scaler.state_dict())

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restores what `state_dict` gave."""
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state)
            self.scale = self._scaler.get_scale()
