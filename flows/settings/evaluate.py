"""Section `evaluate` of params.yaml."""

from __future__ import annotations

from pydantic import Field

from ghn.settings import Settings


class EvaluateConfig(Settings):
    """Section `evaluate` of params.yaml."""

    images: int | None = Field(
        default=None, ge=2, description="so many of the test images, drawn by seed; null: all"
    )
    val_images: int | None = Field(
        default=64,
        ge=2,
        description=(
            "so many of the validation images, drawn by seed, on which choices are made (what is"
            " fine-tuned, which hypernetwork is better); null: all"
        ),
    )
    batch_size: int = Field(
        default=64, ge=2, description="batch norm uses the statistics of a batch"
    )
    max_gmacs: float | None = Field(
        default=None,
        gt=0,
        description=(
            "10^9 multiply-accumulates to spend on a network's accuracy: larger networks see fewer"
            " images; null: no bound"
        ),
    )
    min_images: int = Field(
        default=32, ge=2, description="images that every network sees, whatever it costs"
    )
    bins: int = Field(default=20, ge=2, le=100, description="bins of the accuracy histogram")
