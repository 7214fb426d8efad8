"""Phases of a training: entries of `train.phases` in params.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from datasets.deepnets.space.widths import Channels, FcDim
from ghn.settings import Settings


class PhaseConfig(Settings):
    """A stretch of a training; what is null is as in the section."""

    steps: int | None = Field(
        default=None, ge=1, description="how many; null: all that are left, in the last phase only"
    )
    image_size: int | None = Field(
        default=None, ge=16, le=1024, multiple_of=16, description="side in pixels; null: images'"
    )
    channels: Channels | None = Field(default=None, description="as in train.networks")
    fc_dim: FcDim | None = Field(default=None, description="as in train.networks")
    batch_size: int | None = Field(default=None, ge=2, description="images per step")
    meta_batch_size: int | None = Field(default=None, ge=1, description="architectures per step")
    max_cost: float | None = Field(
        default=None,
        gt=0,
        description=(
            "most multiply-adds of a network per image, at its least width and the size of the"
            " phase; costlier ones have no part in it"
        ),
    )
    norm: Literal["always", "never"] | None = Field(
        default=None,
        description=(
            "of DeepNets-1M only networks with batch norms, or only those without, take part; null:"
            " all of the split. What is learned with them first costs the others nothing"
        ),
    )
    population: bool = Field(
        default=True,
        description="false: train.population has no part in the phase, DeepNets-1M only",
    )


def begun(phases: Sequence[PhaseConfig], steps: int) -> list[PhaseConfig]:
    """The phases that a run of `steps` steps comes to: a shorter run leaves out the last ones."""
    found, before = [], 0
    for phase in phases:
        if before < steps:
            found.append(phase)
        before += phase.steps or 0
    return found


def check_phases(phases: Sequence[PhaseConfig], steps: int) -> None:
    """Checks that phases make up a run of `steps` steps, or of more.

    Raises:
        ValueError: they do not; names the numbers.
    """
    if any(phase.steps is None for phase in phases[:-1]):
        raise ValueError("only the last of phases may leave its steps to the rest of the run")
    total = sum(phase.steps or 0 for phase in phases)
    if phases and phases[-1].steps is not None and total < steps:
        raise ValueError(f"phases take {total} steps, which does not make up steps = {steps}")
