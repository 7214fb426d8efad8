"""Phases of a training: entries of `train.phases` in params.yaml."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field


class PhaseConfig(BaseModel):
    """A stretch of a training; what is null is as in the section."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int | None = Field(
        default=None, ge=1, description="how many; null: all that are left, in the last phase only"
    )
    image_size: int | None = Field(
        default=None, ge=16, le=1024, multiple_of=16, description="side in pixels; null: images'"
    )
    channels: tuple[int, int] | None = Field(default=None, description="as in train.networks")
    fc_dim: tuple[int, int] | None = Field(default=None, description="as in train.networks")
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


def check_phases(phases: Sequence[PhaseConfig], steps: int) -> None:
    """Checks that phases make up a run of `steps` steps.

    Raises:
        ValueError: they do not; names the numbers.
    """
    if not phases:
        return
    *before, last = phases
    counts = [phase.steps for phase in before if phase.steps is not None]
    if len(counts) < len(before):
        raise ValueError("only the last of phases may leave its steps to the rest of the run")
    total = sum(counts)
    if total >= steps or last.steps not in (None, steps - total):
        raise ValueError(
            f"phases take {total} steps and {last.steps or 'the rest'}, which does not make up"
            f" steps = {steps}"
        )
