"""How a network is trained from an initialisation (sections 5.1 and 5.2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ghn.settings import Settings


class FinetuneConfig(Settings):
    """How a network is trained; the defaults are section 5.1's."""

    steps: int = Field(default=100, ge=0, description="optimiser steps")
    lr: float = Field(default=0.1, gt=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=3e-5, ge=0)
    batch_size: int = Field(default=128, ge=1)
    schedule: Literal["constant", "cosine", "step"] = Field(
        default="constant",
        description=(
            "step: divided by 10 after one and two thirds of the steps (ResNets, section 5.2)"
        ),
    )
    warmup: int = Field(
        default=0, ge=0, description="steps over which the learning rate rises from zero"
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    grad_clip: float | None = Field(
        default=5.0, gt=0, description="largest norm of the gradient; null: none"
    )
    augment: bool = False
    amp: bool | Literal["bf16", "fp16"] = Field(
        default=False,
        description="mixed precision: bf16 (or true), fp16 with a loss scale, or false",
    )
    evaluate_at: tuple[int, ...] = Field(
        default=(),
        description=(
            "steps after which validation accuracy is measured, besides the last; a run of fewer"
            " leaves out those beyond"
        ),
    )
    evaluation_batch: int = Field(default=250, ge=1)
    statistics_images: int = Field(
        default=512,
        ge=1,
        description=(
            "training images from which batch norm statistics are estimated before an evaluation"
        ),
    )
