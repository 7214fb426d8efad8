"""Section `predict` of params.yaml."""

from __future__ import annotations

from pydantic import Field

from ghn.settings import Settings


class PredictConfig(Settings):
    """Section `predict` of params.yaml."""

    save: bool = Field(
        default=False, description="write each state dict as safetensors below results/predicted/"
    )
