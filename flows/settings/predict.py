"""Section `predict` of params.yaml."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PredictConfig(BaseModel):
    """Section `predict` of params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    save: bool = Field(
        default=False, description="write each state dict as safetensors below results/predicted/"
    )
