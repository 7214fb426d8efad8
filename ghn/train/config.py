"""The recipe of training: what decides the trained weights, apart from the hypernetwork, the graphs
and the images.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ghn.errors import ConfigError
from ghn.settings import Seed, Settings

Beta = Annotated[float, Field(ge=0, lt=1)]
"""A coefficient of AdamW's running averages."""


class TrainConfig(Settings):
    """Section 5 of the paper; the defaults are those of its GHN-3 on ImageNet, except for the
    number of steps.
    """

    steps: int = Field(default=10_000, ge=1, description="optimizer steps, skipped ones included")
    meta_batch_size: int = Field(
        default=8, ge=1, description="architectures m per step, over all ranks"
    )
    batch_size: int = Field(
        default=128, ge=2, description="images b per step; every architecture sees the same ones"
    )
    augment: bool = Field(
        default=True,
        description=(
            "random crops and mirroring of training images, as published; a hypernetwork that"
            " underfits learns more without (docs/experiments-log.md)"
        ),
    )
    lr: float = Field(default=4e-4, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(default=1e-2, ge=0, description="of AdamW, lambda in table 10")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.999), description="of AdamW")
    warmup_steps: int = Field(
        default=500, ge=0, description="linear warm-up from warmup_lr; then `schedule`"
    )
    warmup_lr: float = Field(default=1e-5, ge=0, description="learning rate of the first step")
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine",
        description=(
            "after warm-up: half a cosine down to zero, or the peak rate up to the last"
            " `decay_steps`; a constant run may be made longer or shorter while it is under way"
        ),
    )
    decay_steps: int = Field(
        default=0,
        ge=0,
        description="last steps of a constant schedule, over which the rate falls to zero",
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description=(
            "decay of an exponential moving average of the hypernetwork's weights, which is then"
            " evaluated and published in their place; null: no average"
        ),
    )
    clip: float = Field(default=5.0, gt=0, description="largest norm of the gradient")
    network_clip: float | None = Field(
        default=None,
        gt=0,
        description=(
            "largest norm of the gradient that one network sends into the hypernetwork (with"
            " respect to its predicted parameters); null: unbounded, as in the paper. Keeps a"
            " network without norms whose activations explode from drowning the others; one whose"
            " loss or gradient is not finite is then left out of its step"
        ),
    )
    gamma: float = Field(
        default=3e-5, ge=0, description="weight of the penalty on predicted parameters, eq. 10"
    )
    penalty: Literal["norm", "square"] = Field(
        default="norm",
        description=(
            "sum over predicted tensors of their L2 norms (eq. 10) or squared norms (table 5)"
        ),
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="0.1 on ImageNet")
    amp: Literal["off", "fp16", "bf16"] = Field(default="off", description="mixed precision")
    amp_decoders: bool = Field(
        default=False,
        description=(
            "bf16: decoders of the hypernetwork, too; they stay in float32 otherwise, and always"
            " with fp16, in which they overflow"
        ),
    )
    tf32: bool = Field(
        default=True,
        description=(
            "on a GPU, TF32 for what is computed in float32; false for products as exact as a CPU's"
        ),
    )
    recompute: bool = Field(
        default=False,
        description=(
            "compute the activations of target networks again in the backward pass, block by block,"
            " instead of keeping them: large images and widths fit, for a third more time; losses"
            " and gradients are the same"
        ),
    )
    shard_optimizer: bool = Field(
        default=False,
        description=(
            "several ranks: each keeps the moments of its share of the hypernetwork's weights only"
            " (ZeRO-1), for large hypernetworks; losses are the same"
        ),
    )
    amp_scale_floor: float = Field(
        default=1024, gt=0, description="fp16: the loss scale does not go below"
    )
    amp_growth_interval: int = Field(
        default=100, ge=1, description="fp16: good steps before the loss scale doubles"
    )
    seed: Seed = Field(default=1, description="of image order, augmentation and dropout")
    max_skipped: int = Field(
        default=20, ge=0, description="steps in a row without a finite gradient before giving up"
    )
    deterministic: bool = Field(
        default=False,
        description=(
            "deterministic algorithms only, so that runs on one GPU repeat to the bit; slower, and"
            " an error where PyTorch has none. On a CPU they do in any case"
        ),
    )
    checkpoint_every: int = Field(default=500, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(
        default=2, ge=1, description="latest checkpoints to keep, beside the best"
    )
    evaluate_every: int = Field(
        default=0, ge=0, description="steps between evaluations; 0: only at the end"
    )
    log_every: int = Field(default=20, ge=1, description="steps between reports to the callbacks")

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps = {self.warmup_steps} must be below steps = {self.steps}"
            )
        if self.amp_decoders and self.amp != "bf16":
            raise ValueError(f"amp_decoders needs amp = bf16; it is {self.amp}")
        if self.decay_steps and self.schedule != "constant":
            raise ValueError(
                f"decay_steps = {self.decay_steps} needs schedule = constant; a cosine decays all"
                " along"
            )
        if self.warmup_steps + self.decay_steps > self.steps:
            raise ValueError(
                f"warmup_steps + decay_steps = {self.warmup_steps + self.decay_steps} must not be"
                f" above steps = {self.steps}"
            )
        return self

    @property
    def horizon(self) -> tuple[int, int]:
        """What the learning rate knows of the end: the number of steps, and the step from which the
        rate depends on it.
        """
        constant = self.schedule == "constant"
        return self.steps, self.steps - self.decay_steps if constant else 0

    def recipe(self) -> dict[str, Any]:
        """The fields that decide the weights: a run resumes only where they are the same.

        The length of a constant schedule is not among them: see `horizon`.
        """
        no_matter = {
            "checkpoint_every",
            "keep_checkpoints",
            "evaluate_every",
            "log_every",
            "max_skipped",
            "recompute",
            "shard_optimizer",
        }
        # Runs from before these were fields go on.
        no_matter |= {name for name in _NEW if getattr(self, name) == _NEW[name]}
        if self.schedule == "constant":
            no_matter |= {"steps", "decay_steps"}
        return self.model_dump(mode="json", exclude=no_matter)

    def share(self, world: int) -> int:
        """Architectures per rank.

        Raises:
            ConfigError: the meta-batch does not divide by the number of ranks.
        """
        if self.meta_batch_size % world:
            raise ConfigError(
                f"meta_batch_size = {self.meta_batch_size} must be a multiple of the {world} ranks"
            )
        return self.meta_batch_size // world


_NEW = {"tf32": True, "amp_decoders": False}
"""Fields that recipes of earlier runs have not, and what was done then."""
