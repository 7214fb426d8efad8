"""What all settings have in common, whoever's they are."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

T = TypeVar("T")


def _once(values: tuple[T, ...]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))


Once = Annotated[tuple[T, ...], AfterValidator(_once)]
"""Values in their order; what is named twice counts once, since it would be worked out twice."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Of random draws: what every library takes that draws."""


class Settings(BaseModel):
    """Fields that stay as they were read: none unknown, every number finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
